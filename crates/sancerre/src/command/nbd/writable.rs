//! A disk that clients may write: an overlay over the snapshot, in a file.

use std::path::Path;
use std::sync::Arc;

use sancerre_engine::restore::SnapshotReader;
use sancerre_serve::{OverlaidDisk, OverlayFile, ServedDisk, WrittenDisk};

use super::repository_id;
use crate::exit::Failure;
use crate::plain;

/// Puts the overlay in a file over the only export.
pub(super) fn over(
    reader: &SnapshotReader,
    exports: &mut [Arc<dyn ServedDisk>],
    path: &Path,
) -> Result<Arc<dyn WrittenDisk>, Failure> {
    let [export] = exports else {
        return Err(Failure::usage(
            "--writable takes one disk, and each needs an overlay of its own: write :DISK behind the snapshot",
        ));
    };
    let failed = |error: &dyn std::fmt::Display| {
        Failure::failed(format!("cannot use the overlay {}: {error}", plain::path(path)))
    };
    let belongs_to = format!(
        "sancerre-overlay-v1\nrepository: {}\nsnapshot: {}\ndisk: {}\nsize_bytes: {}\n",
        repository_id(reader),
        reader.manifest().session.intent,
        export.name(),
        export.size_bytes()
    );
    let file = OverlayFile::open(path, &belongs_to, export.size_bytes()).map_err(|error| failed(&error))?;
    let disk = OverlaidDisk::open(Arc::clone(export), file).map_err(|error| failed(&error))?;
    let disk = Arc::new(disk);
    *export = Arc::clone(&disk) as Arc<dyn ServedDisk>;
    Ok(disk)
}

/// What no client has flushed is there too after an end that was asked for.
pub(super) async fn finish(disk: &dyn WrittenDisk) -> Result<(), Failure> {
    let flushed = disk.flush().await;
    flushed.map_err(|failure| {
        Failure::failed(format!("{failure}; what no client flushed before may be lost, all else is there"))
    })
}
