//! An export as a disk.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::NbdOptions;
use super::channel::Connector;
use super::connection::Failed;
use super::error::{Fault, NbdError};
use super::negotiate::{Export, list_contexts};
use super::pool::Pool;
use super::socket::Sockets;
use super::status::{Context, Extents, Question};
use super::uri::{Address, NbdUri};
use super::wire::{STATE_DIRTY, STATE_ZERO};
use crate::change_map::{ChangeMap, MapError};
use crate::positional::{is_inside, length};
use crate::{ChangedError, Disk, ReadError};

/// The server is asked for the extents of this much at once, so that empty stretches of a huge disk cost one question
/// in a thousand regions. A multiple of every block size.
const WINDOW_BYTES: u64 = 1 << 30;
/// Largest disk: some minutes of questions.
const SIZE_BYTES_MAX: u64 = 4 << 50;
/// Answers that are kept: readers are near each other.
const WINDOWS: usize = 4;
/// Longer answers are not.
const EXTENTS_MAX: usize = 1 << 18;
/// A power of two, and thus whole blocks: sizes and limits are multiples of them.
const WARM_UP_BYTES: u32 = 4 << 20;
/// Failing reads are narrowed down to this, or to the server's smallest block.
const BLOCK_BYTES: u64 = 4096;

/// A disk behind an NBD server, open for reading.
pub struct NbdDisk {
    name: String,
    path: PathBuf,
    pool: Pool,
    options: NbdOptions,
    windows: Mutex<Vec<Window>>,
}

/// What the server said of a stretch of the disk.
struct Window {
    context: Context,
    start: u64,
    extents: Arc<Extents>,
}

impl NbdDisk {
    /// Connects to a server and opens its export.
    ///
    /// # Errors
    /// What the server said, or why it could not be asked.
    pub fn open(uri: &NbdUri, options: &NbdOptions) -> Result<Self, NbdError> {
        let sockets = Sockets::new(uri, options).map_err(|fault| fault.at(&uri.to_string()))?;
        let disk = Self::over(Box::new(sockets), &uri.export, &uri.to_string(), options)?;
        if matches!(uri.address, Address::Unix(_)) {
            disk.warm_up().map_err(|fault| fault.at(&uri.to_string()))?;
        }
        Ok(disk)
    }

    /// One larger read, once. QEMU takes a buffer for each request from the C library, and GNU's maps and unmaps pages
    /// for every one that is as large as the largest so far: the server then spends its time on empty pages. After a
    /// larger one the usual ones come from its heap, at three times the speed. What cannot be read here will be said
    /// when somebody wants it.
    fn warm_up(&self) -> Result<(), Fault> {
        let export = self.pool.export();
        let most = u64::from(export.largest_block_bytes.min(WARM_UP_BYTES)).min(export.size_bytes);
        let mut buffer = vec![0; usize::try_from(most).unwrap_or(0)];
        let Err(Failed(_)) = self.pool.with(|connection| connection.read_at_once(&mut buffer))? else {
            return Ok(());
        };
        Ok(())
    }

    /// Opens the export `name` over any kind of connection; `shown` is what messages call it.
    ///
    /// # Errors
    /// As [`NbdDisk::open`].
    pub fn over(
        connector: Box<dyn Connector>,
        name: &str,
        shown: &str,
        options: &NbdOptions,
    ) -> Result<Self, NbdError> {
        let pool = Pool::open(connector, name, options).map_err(|fault| fault.at(shown))?;
        refuse_huge(pool.export().size_bytes).map_err(|fault| fault.at(shown))?;
        let (name, path) = (shown.to_owned(), PathBuf::from(shown));
        Ok(Self { name, path, pool, options: options.clone(), windows: Mutex::default() })
    }

    /// The contexts that a server has for an export, such as `base:allocation` and its dirty bitmaps.
    ///
    /// # Errors
    /// As [`NbdDisk::open`].
    pub fn contexts(uri: &NbdUri, options: &NbdOptions) -> Result<Vec<String>, NbdError> {
        let list = || {
            let sockets = Sockets::new(uri, options)?;
            let mut channel = sockets.connect(options.timeout)?;
            list_contexts(channel.as_mut(), &uri.export, sockets.wants_tls(), "")
        };
        list().map_err(|fault: Fault| fault.at(&uri.to_string()))
    }

    /// Its connections.
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What was agreed on with the server.
    pub fn export(&self) -> &Export {
        self.pool.export()
    }

    /// The ranges inside `range` that the dirty bitmap calls changed: ascending, disjoint, clipped.
    ///
    /// # Errors
    /// [`ReadError::Server`], also when no bitmap was asked for at the opening.
    pub fn changed_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        if self.pool.export().bitmap.is_none() {
            let fault = Fault::Unfit("no dirty bitmap was asked for when it was opened".to_owned());
            return Err(self.error(&range, fault));
        }
        self.ranges(range, Context::Bitmap)
    }

    /// All that changed since the dirty bitmap began.
    ///
    /// # Errors
    /// As [`NbdDisk::changed_ranges`].
    pub fn changes(&self) -> Result<ChangeMap, ReadError> {
        let whole = 0..self.size_bytes();
        let source = self.options.bitmap.clone().unwrap_or_default();
        let ranges = self.changed_ranges(whole.clone())?;
        let map = ChangeMap::new(&source, self.size_bytes(), ranges);
        map.map_err(|error: MapError| self.error(&whole, Fault::Unfit(error.to_string())))
    }

    fn error(&self, range: &Range<u64>, fault: Fault) -> ReadError {
        ReadError::Server {
            offset: range.start,
            length_bytes: range.end.saturating_sub(range.start),
            source: fault.at(&self.name),
        }
    }

    fn refuse_outside(&self, offset: u64, length_bytes: u64) -> Result<(), ReadError> {
        if is_inside(offset, length_bytes, self.size_bytes()) {
            return Ok(());
        }
        let (path, size_bytes) = (self.path.clone(), self.size_bytes());
        Err(ReadError::OutOfRange { path, offset, length_bytes, size_bytes })
    }

    /// `range` grown to whole blocks. The size is a multiple of them.
    fn aligned(&self, range: &Range<u64>) -> Range<u64> {
        let block = u64::from(self.pool.export().smallest_block_bytes);
        let start = range.start.saturating_sub(range.start.checked_rem(block).unwrap_or(0));
        start..range.end.checked_next_multiple_of(block).unwrap_or(range.end)
    }

    /// Reads whole blocks. After an error all is read again, block by block: an error that goes away cost time only,
    /// and one that stays is named to the block.
    fn read_blocks(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let Err(Failed(_)) = self.read_once(offset, buffer)? else { return Ok(()) };
        let block = BLOCK_BYTES.max(u64::from(self.pool.export().smallest_block_bytes));
        let mut at = offset;
        for piece in buffer.chunks_mut(usize::try_from(block).unwrap_or(usize::MAX)) {
            let range = at..at.saturating_add(length(piece));
            if let Err(Failed(said)) = self.read_once(at, piece)? {
                return Err(self.error(&range, Fault::Failed(said)));
            }
            at = range.end;
        }
        Ok(())
    }

    fn read_once(&self, offset: u64, buffer: &mut [u8]) -> Result<Result<(), Failed>, ReadError> {
        let range = offset..offset.saturating_add(length(buffer));
        self.pool
            .with(|connection| connection.read(offset, buffer))
            .map_err(|fault| self.error(&range, fault))
    }

    fn ranges(&self, range: Range<u64>, context: Context) -> Result<Vec<Range<u64>>, ReadError> {
        // Zeros are left out, changes are taken.
        let wanted = context == Context::Bitmap;
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let start = at.saturating_sub(at.checked_rem(WINDOW_BYTES).unwrap_or(0));
            let end = start.saturating_add(WINDOW_BYTES).min(self.size_bytes());
            for next in self.window(start..end, context)?.ranges(start, &range, wanted) {
                match found.last_mut() {
                    Some(last) if last.end == next.start => last.end = next.end,
                    _ => found.push(next),
                }
            }
            at = end;
        }
        Ok(found)
    }

    /// What the server says of a window. Its lock is held while it is asked, so that several readers of a window ask
    /// once.
    fn window(&self, window: Range<u64>, context: Context) -> Result<Arc<Extents>, ReadError> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |known: &&Window| known.context == context && known.start == window.start;
        if let Some(known) = windows.iter().find(is_it) {
            return Ok(Arc::clone(&known.extents));
        }
        let (bit, fallback) = match context {
            Context::Allocation => (STATE_ZERO, false),
            Context::Bitmap => (STATE_DIRTY, true),
        };
        let question = Question { context, bit, fallback, one_extent: self.options.single_extents };
        let asked = self.pool.with(|connection| connection.extents(window.clone(), question));
        let extents = asked.and_then(|answer| answer.map_err(|Failed(said)| Fault::Failed(said)));
        let extents = Arc::new(extents.map_err(|fault| self.error(&window, fault))?);
        if extents.len() <= EXTENTS_MAX {
            windows.truncate(WINDOWS.saturating_sub(1));
            windows.insert(0, Window { context, start: window.start, extents: Arc::clone(&extents) });
        }
        Ok(extents)
    }
}

impl Disk for NbdDisk {
    fn size_bytes(&self) -> u64 {
        self.pool.export().size_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.refuse_outside(offset, length(buffer))?;
        let range = offset..offset.saturating_add(length(buffer));
        let aligned = self.aligned(&range);
        if buffer.is_empty() || aligned == range {
            return self.read_blocks(offset, buffer);
        }
        let inside = |at: u64| usize::try_from(at.saturating_sub(aligned.start)).unwrap_or(usize::MAX);
        let mut blocks = vec![0; inside(aligned.end)];
        self.read_blocks(aligned.start, &mut blocks)?;
        match blocks.get(inside(range.start)..inside(range.end)) {
            Some(wanted) if wanted.len() == buffer.len() => buffer.copy_from_slice(wanted),
            _ => return Err(self.error(&range, Fault::lied("blocks that do not hold the range"))),
        }
        Ok(())
    }

    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.refuse_outside(range.start, range.end.saturating_sub(range.start))?;
        if self.pool.export().allocation.is_some() {
            return self.ranges(range, Context::Allocation);
        }
        Ok(if range.is_empty() { Vec::new() } else { std::iter::once(range).collect() })
    }

    /// A server tells of no change: an export of a running guest's disk must be a still picture. What was seen is
    /// that no connection showed another disk, or reading would have failed.
    fn check_unchanged(&self) -> Result<(), ChangedError> {
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// Where the holes of a disk are its server says in pieces of a GiB, so that a larger one would take hours without any data in it.
fn refuse_huge(size_bytes: u64) -> Result<(), Fault> {
    if size_bytes <= SIZE_BYTES_MAX {
        return Ok(());
    }
    Err(Fault::Unfit(format!(
        "its disk has {size_bytes} bytes, and at most {SIZE_BYTES_MAX} (4 PiB) are read over NBD. Name the image itself if it is a \
         qcow2 or raw file, whose holes cost no time; or make the disk smaller"
    )))
}

impl fmt::Debug for NbdDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NbdDisk").field("name", &self.name).field("export", self.pool.export()).finish()
    }
}
