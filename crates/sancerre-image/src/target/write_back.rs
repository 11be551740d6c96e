//! Flushing a disk while it is written: a restore that fills the page cache and flushes at its end waits twice.
//!
//! Invariant: an error of a flush is reported once per open file (fsync(2)), so whoever flushes early keeps it for the
//! end. The thread shares the lock on the file, so it has ended before the file is given up.

use std::fs::File;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Written between two flushes: enough for a disk to write in order, little enough that the last one is short.
const STEP_BYTES: u64 = 32 << 20;

/// What was written and not yet handed to a flush.
#[derive(Debug, Default)]
pub(super) struct WriteBack {
    waiting_bytes: AtomicU64,
    /// Begun with the first step; none where no thread could be had, and then the end flushes everything.
    flusher: OnceLock<Option<Flusher>>,
}

#[derive(Debug)]
struct Flusher {
    /// None once it is to end. One flush that waits is enough for all that is written until it begins.
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl WriteBack {
    /// Says that so many bytes were written to `file`. Never waits.
    pub(super) fn written(&self, file: &File, count: u64) {
        let before = self.waiting_bytes.fetch_add(count, Ordering::Relaxed);
        if before.saturating_add(count) < STEP_BYTES {
            return;
        }
        self.waiting_bytes.store(0, Ordering::Relaxed);
        let flusher = self.flusher.get_or_init(|| Flusher::start(file).ok());
        let wake = flusher.as_ref().and_then(|flusher| flusher.wake.as_ref());
        // Full: a flush waits already. Nobody there: it failed, which `end` reports.
        wake.map(|wake| wake.try_send(()));
    }

    /// Waits for the flush that runs. What was written since is flushed by the caller.
    ///
    /// # Errors
    /// Of the first flush that failed.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.flusher.take().flatten().map_or(Ok(()), |mut flusher| flusher.end())
    }
}

impl Flusher {
    fn start(file: &File) -> io::Result<Self> {
        let (file, (wake, woken)) = (file.try_clone()?, sync_channel(1));
        let flush = move || woken.iter().try_for_each(|()| file.sync_data());
        let thread = thread::Builder::new().name("write-back".to_owned()).spawn(flush)?;
        Ok(Self { wake: Some(wake), thread: Some(thread) })
    }

    fn end(&mut self) -> io::Result<()> {
        self.wake = None;
        let ended = self.thread.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(io::Error::other("the thread that flushes died")))
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        // After `end` this does nothing. Given up: nobody asks any more whether it was durable.
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests;
