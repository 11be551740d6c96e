//! Where an overlay lies: a file, which one server has at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::{BLOCK_BYTES, overlay_bytes};

/// Zeros that are written at once where no hole can be made.
const ZEROS_BYTES: u64 = 1 << 20;

/// Words of a file that is no overlay of the disk.
const WORDS_MAX: usize = 300;

/// What an overlay is kept in.
pub trait OverlayMedium: Send + Sync + 'static {
    /// Fills `buffer` from there.
    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes there; durable after the next sync.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes zeros of a stretch.
    fn zero(&self, at: u64, length: u64) -> io::Result<()>;
    /// Makes all that was written before durable.
    fn sync(&self) -> io::Result<()>;
}

/// Why there is no overlay.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// Another server has it.
    #[error("another server has it open: stop that one, or name another file")]
    InUse,
    /// It belongs to something else.
    #[error("it belongs to something else, and says: {found:?}. Serve that, or name another file")]
    Other {
        /// How it begins.
        found: String,
    },
    /// It is not as long as it was made.
    #[error("it has {found} bytes, and was made with {wanted}: something cut it")]
    Cut {
        /// As it is.
        found: u64,
        /// As it was.
        wanted: u64,
    },
    /// The file system.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The file of an overlay, locked while this lives.
pub struct OverlayFile(File);

impl OverlayFile {
    /// Opens the overlay at `path`, or makes it. `belongs_to` says, in a few lines of text, whose it is: it stands at its
    /// beginning, and a file that begins otherwise is refused.
    pub fn open(path: &Path, belongs_to: &str, size_bytes: u64) -> Result<Self, OverlayError> {
        let mut header = belongs_to.as_bytes().to_vec();
        if header.len() as u64 > BLOCK_BYTES {
            return Err(io::Error::other("what it belongs to has too long a name").into());
        }
        header.resize(usize::try_from(BLOCK_BYTES).unwrap_or_default(), 0);
        let mut open = OpenOptions::new();
        open.read(true).write(true);
        let file = match open.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(path, &header, size_bytes)?;
                open.open(path)?
            }
            opened => opened?,
        };
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OverlayError::InUse,
            TryLockError::Error(error) => error.into(),
        })?;
        let (found, wanted) = (file.metadata()?.len(), overlay_bytes(size_bytes));
        let mut begins = vec![0; header.len()];
        let read = file.read_exact_at(&mut begins, 0);
        if read.is_err() || begins != header {
            let found = String::from_utf8_lossy(&begins);
            let found = found.trim_end_matches('\0').chars().take(WORDS_MAX).collect();
            return Err(OverlayError::Other { found });
        }
        match found == wanted {
            true => Ok(Self(file)),
            false => Err(OverlayError::Cut { found, wanted }),
        }
    }
}

/// Makes an overlay of which nothing was written; it has its name only once it is durable.
fn make(path: &Path, header: &[u8], size_bytes: u64) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".sancerre-partial");
    let partial = PathBuf::from(partial);
    let mut open = OpenOptions::new();
    // It will hold what guests write.
    let mut file = open.write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(header)?;
    file.set_len(overlay_bytes(size_bytes))?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

impl OverlayMedium for OverlayFile {
    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, at)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn zero(&self, at: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&self.0, flags, at, length).is_ok() {
            return Ok(());
        }
        let zeros = vec![0; usize::try_from(length.min(ZEROS_BYTES)).unwrap_or_default()];
        let (mut at, mut left) = (at, length);
        while left > 0 {
            let piece = left.min(ZEROS_BYTES);
            let length = usize::try_from(piece).unwrap_or_default();
            self.0.write_all_at(zeros.get(..length).unwrap_or_default(), at)?;
            (at, left) = (at.saturating_add(piece), left.saturating_sub(piece));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
