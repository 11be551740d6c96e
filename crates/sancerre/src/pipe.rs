//! Reading small files that may be pipes, such as a shell's `<(command)`: as long as somebody is there who may write, and
//! no longer. A pipe without a writer would keep us for ever.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;

/// Between two looks at a pipe.
const STEP: Duration = Duration::from_millis(20);
/// Looks at a pipe that has no writer: two seconds for who is about to come.
const LOOKS_MAX: u32 = 100;

/// A file that is read without waiting for whoever does not come.
#[derive(Debug)]
pub(crate) struct Patient {
    pub(crate) file: File,
    /// Something came: the next time that there is no writer is the end.
    has_begun: bool,
}

impl Patient {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
        let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        Ok(Self { file, has_begun: false })
    }

    fn is_pipe(&self) -> bool {
        use std::os::unix::fs::FileTypeExt;
        self.file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut looks = 0;
        loop {
            match self.file.read(buffer) {
                // A writer has it open, and may take its time.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.has_begun = true,
                Ok(0) if !self.has_begun && !buffer.is_empty() && self.is_pipe() => {
                    looks += 1;
                    if looks > LOOKS_MAX {
                        return Err(io::Error::other("it is a pipe that nobody writes to"));
                    }
                }
                done => {
                    self.has_begun = true;
                    return done;
                }
            }
            std::thread::sleep(STEP);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_pipe_is_read_if_somebody_writes_and_given_up_if_nobody_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let error = Patient::open(&path).unwrap().read(&mut [0]).unwrap_err();
        assert!(error.to_string().contains("nobody writes"), "{error}");

        let script =
            format!("sleep 0.3; (sleep 0.2; printf abc; sleep 0.2; printf def) > {}", path.display());
        let mut writer = Command::new("sh").args(["-c", &script]).spawn().unwrap();
        let mut text = String::new();
        Patient::open(&path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcdef");
        assert!(writer.wait().unwrap().success());
    }
}
