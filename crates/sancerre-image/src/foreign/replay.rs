//! A VHDX whose writer did not close it, such as a crash-consistent copy from Hyper-V: its log holds writes that were begun, and
//! without them its tables may be torn.
//!
//! QEMU replays such a log, and only into an image that it may write. It gets one: an empty qcow2 in a private folder, which
//! stands on the image. What the log holds goes there, and the image is never open for writing. Nothing is copied.

use std::path::Path;

use super::options::Options;
use super::program::Private;
use super::{ImageDisk, ImageError, ImageFormat, ImageReader};
use crate::{Qcow2Compression, Qcow2Target, TargetError};

/// What the program says of such an image.
const OPEN_LOG: &str = "contains a log that needs to be replayed";
/// Of what a log makes it write. The logs of Hyper-V have 1 MiB; a hostile one says "zeros" for as long as there is a disk.
pub(super) const WRITTEN_BYTES_MAX: u64 = 512 << 20;

/// Whether a refusal is about an open log.
pub(super) fn is_wanted(format: ImageFormat, error: &ImageError) -> bool {
    format == ImageFormat::Vhdx
        && matches!(error, ImageError::Refused { said, .. } if said.contains(OPEN_LOG))
}

impl ImageReader {
    /// Opens an image whose log the program replays in private.
    pub(super) fn replay(
        &self,
        image: &Path,
        format: ImageFormat,
        real: &Path,
    ) -> Result<ImageDisk, ImageError> {
        let folder = Private::new().map_err(|source| ImageError::Io { path: image.to_owned(), source })?;
        let overlay = folder.path().join("written.qcow2");
        make(&overlay, real)
            .map_err(|error| ImageError::Replay { path: image.to_owned(), source: Box::new(error) })?;
        let options = Options::written(format, real, &overlay);
        let confinement = self.confinement(options, [real.to_owned()], Some(overlay));
        self.start(image, format, (confinement, folder), real).map_err(|error| match error {
            ImageError::Refused { path, format, said } => {
                let said = format!(
                    "its writer did not close it, and its log cannot be replayed: {said}. That takes at most {} MiB of room in {}; \
                     TMPDIR names another place",
                    WRITTEN_BYTES_MAX >> 20,
                    std::env::temp_dir().display()
                );
                ImageError::Refused { path, format, said }
            }
            error => error,
        })
    }
}

/// Makes an empty image of the length of another file.
fn make(overlay: &Path, image: &Path) -> Result<(), TargetError> {
    let size_bytes = std::fs::metadata(image)
        .map_err(|source| TargetError::Io { step: "look at", path: image.to_owned(), source })?
        .len();
    Qcow2Target::create(overlay, size_bytes, false, Qcow2Compression::None)?.finish()
}
