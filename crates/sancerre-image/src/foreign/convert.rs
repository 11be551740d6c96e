//! Images of other hypervisors, written by a confined `qemu-img` that is given the disk over one socket and has one file to
//! write.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use sancerre_confine::{Confinement, Helper, Limits};

use super::{ImageError, ImageFormat};
use crate::NewFile;
use crate::process::Process;

/// How images are written.
#[derive(Debug, Clone)]
pub struct ImageWriter {
    /// `qemu-img`, as an absolute path.
    pub qemu_img: PathBuf,
    /// How this program starts itself as the confine helper.
    pub helper: Helper,
    /// How much of the machine the writer may use.
    pub limits: Limits,
    /// False only when the user said `--no-sandbox`.
    pub sandbox: bool,
}

/// A `qemu-img` at work; ended when dropped.
#[derive(Debug)]
pub struct Conversion {
    process: Process,
    path: PathBuf,
    format: ImageFormat,
}

impl ImageWriter {
    /// Starts to write `target` in a format. The caller serves the disk over NBD, as the export of the empty name, at the
    /// other end of the socket.
    ///
    /// # Errors
    /// [`ImageError::Io`], [`ImageError::Start`]; a format that QEMU does not write.
    pub fn start(
        &self,
        format: ImageFormat,
        target: &NewFile,
    ) -> Result<(Conversion, UnixStream), ImageError> {
        let fail = |source| ImageError::Io { path: target.path().to_owned(), source };
        // An absolute path is no protocol of QEMU's, whatever is in it.
        let real = std::fs::canonicalize(target.path()).map_err(fail)?;
        let options = options(format).ok_or_else(|| fail(io::ErrorKind::Unsupported.into()))?;
        let source = "driver=raw,file.driver=nbd,file.export=,file.server.type=fd,file.server.str=0";
        let words = ["convert", "-q", "--image-opts", "-O", format.qemu_name(), "-o", options, source];
        let mut arguments: Vec<_> = words.map(Into::into).to_vec();
        arguments.push(real.clone().into_os_string());
        let confinement = Confinement {
            program: self.qemu_img.clone(),
            arguments,
            readable: Vec::new(),
            writable: vec![real],
            limits: self.limits,
            listens: false,
            sandbox: self.sandbox,
        };
        let (ours, theirs) = UnixStream::pair().map_err(fail)?;
        let mut command = self.helper.command(&confinement);
        command.stdin(OwnedFd::from(theirs));
        let process = Process::start(command).map_err(|source| ImageError::Start {
            path: target.path().to_owned(),
            program: self.qemu_img.clone(),
            source,
        })?;
        Ok((Conversion { process, path: target.path().to_owned(), format }, ours))
    }
}

impl Conversion {
    /// Waits until the image is written; what is then in the file is not durable yet. False when it was ended because
    /// nobody wants it any more.
    ///
    /// # Errors
    /// [`ImageError::Unwritten`], with what the program said.
    pub fn wait(self, is_wanted: impl Fn() -> bool) -> Result<bool, ImageError> {
        match self.process.wait(&is_wanted) {
            Some(status) if status.success() => Ok(true),
            None if !is_wanted() => Ok(false),
            status => {
                let how = status.map_or_else(|| "it ended".to_owned(), |status| status.to_string());
                let (path, format) = (self.path.clone(), self.format.qemu_name());
                let said = match self.process.last_words() {
                    words if words.is_empty() => how,
                    words => format!("{words} ({how})"),
                };
                Err(ImageError::Unwritten { path, format, said })
            }
        }
    }
}

/// How each format is made: growing, and of exactly the size of the disk, where a VHD would else be rounded to a geometry.
fn options(format: ImageFormat) -> Option<&'static str> {
    match format {
        ImageFormat::Vhdx => Some("subformat=dynamic"),
        ImageFormat::Vhd => Some("subformat=dynamic,force_size=on"),
        ImageFormat::Vdi => Some("static=off"),
        _ => None,
    }
}
