//! What QEMU is told to open: a format over a file, each with its options, as `--image-opts` takes them.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::ImageFormat;

/// Options, by their names in QEMU's tree of drivers.
pub(super) struct Options(OsString);

impl Options {
    /// An image that is a file. It is only read, so whoever else opens it may do what he likes with it: we see ourselves whether
    /// it was written to, and a guest that starts meanwhile finds no lock of ours.
    pub(super) fn file(format: ImageFormat, path: &Path) -> Self {
        Self::of(format).with("force-share", "on").with("file.driver", "file").with("file.filename", path)
    }

    /// An image that lies in a stretch of a file.
    pub(super) fn stretch(format: ImageFormat, path: &Path, place: &Range<u64>) -> Self {
        let size_bytes = place.end.saturating_sub(place.start);
        Self::of(format)
            .with("force-share", "on")
            .with("file.driver", "raw")
            .with("file.offset", place.start.to_string())
            .with("file.size", size_bytes.to_string())
            .with("file.file.driver", "file")
            .with("file.file.filename", path)
    }

    /// An image that is a file, and is written to: what is written goes to an empty qcow2 image beside it.
    pub(super) fn written(format: ImageFormat, path: &Path, overlay: &Path) -> Self {
        Self::of(format)
            .with("file.driver", "qcow2")
            .with("file.file.driver", "file")
            .with("file.file.filename", overlay)
            .with("file.backing.driver", "raw")
            .with("file.backing.read-only", "on")
            .with("file.backing.force-share", "on")
            .with("file.backing.file.driver", "file")
            .with("file.backing.file.filename", path)
    }

    fn of(format: ImageFormat) -> Self {
        Self(OsString::from(format!("driver={}", format.qemu_name())))
    }

    fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.push(format!(",{name}="));
        // A comma ends a value, and two are one.
        for (number, part) in value.as_ref().as_bytes().split(|byte| *byte == b',').enumerate() {
            self.0.push(if number > 0 { ",," } else { "" });
            self.0.push(OsStr::from_bytes(part));
        }
        self
    }

    /// The arguments that say so.
    pub(super) fn arguments(self) -> [OsString; 3] {
        ["--image-opts".into(), "--".into(), self.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_name_ends_nothing() {
        let [.., options] = Options::file(ImageFormat::Vdi, Path::new("/a,b,,c")).arguments();
        assert_eq!(options, "driver=vdi,force-share=on,file.driver=file,file.filename=/a,,b,,,,c");
    }
}
