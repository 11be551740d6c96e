//! Forms that QEMU writes: a confined `qemu-img` reads the disk from a server of ours over one socket, and writes one file.

use std::sync::Arc;

use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::snapshot_disk::SnapshotDisk;
use sancerre_image::NewFile;
use sancerre_image::foreign::{ImageFormat, ImageWriter};
use sancerre_serve::{ClientLimits, Server, SnapshotExport};
use tokio::net::UnixStream;

use super::{Export, Written, surplus};
use crate::command::Context;
use crate::exit::{Exit, Failure};
use crate::formats;

const QEMU_IMG: &str = "qemu-img";

/// Writes the one disk.
pub(super) async fn write(
    options: &Export,
    format: ImageFormat,
    disks: &[Arc<SnapshotDisk>],
    file: &NewFile,
    monitor: &Monitor,
    context: &Context,
) -> Result<Written, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
    let writer = ImageWriter {
        qemu_img: formats::program(context, QEMU_IMG, &options.target, "written")?,
        helper: formats::helper()?,
        limits: sancerre_confine::Limits::default(),
        sandbox: !options.no_sandbox,
    };
    let (conversion, socket) = writer.start(format, file).map_err(|error| failed(&error))?;
    socket.set_nonblocking(true).map_err(|error| failed(&error))?;
    let socket = UnixStream::from_std(socket).map_err(|error| failed(&error))?;
    let exports = disks.iter().map(|disk| -> Arc<dyn sancerre_serve::ServedDisk> {
        Arc::new(SnapshotExport::new("", Arc::clone(disk)))
    });
    let output = Arc::clone(&context.output);
    let server = Server::new(exports.collect(), ClientLimits::default(), move |said| output.warning(&said));
    let serving = tokio::spawn(async move { server.converse(socket).await });
    let watched = monitor.clone();
    let waited = tokio::task::spawn_blocking(move || conversion.wait(|| watched.check().is_ok())).await;
    serving.abort();
    match waited {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => return Err(Failure::new(Exit::Interrupted, "interrupted; nothing was exported")),
        Ok(Err(error)) => return Err(failed(&error)),
        Err(panic) => return Err(Failure::new(Exit::Bug, panic.to_string())),
    }
    let file_bytes = file.file().metadata().map_err(|error| file.write_failed(error))?.len();
    Ok(Written { file_bytes, surplus_bytes: surplus(disks.iter().map(|disk| disk.size_bytes())) })
}
