//! Progress and warnings on their way to whoever watches. The engine itself never prints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of a running command. All are in bytes.
#[derive(Debug, Default)]
pub struct Counters {
    /// What there is to do; known once planning is over.
    pub total_bytes: AtomicU64,
    /// Of it, what is done.
    pub done_bytes: AtomicU64,
    /// Read from disks, without holes.
    pub data_bytes: AtomicU64,
    /// Of that, not known before.
    pub new_bytes: AtomicU64,
    /// Bytes of packs handed to the store, or fetched from it.
    pub stored_bytes: AtomicU64,
}

/// Something the user should know although the command goes on.
pub type Warn = dyn Fn(String) + Send + Sync;

/// Watches a command and can stop it.
#[derive(Clone)]
pub struct Monitor {
    /// Counters, updated as the command goes.
    pub counters: Arc<Counters>,
    warn: Arc<Warn>,
    interrupted: Arc<AtomicBool>,
}

impl Monitor {
    /// A monitor that passes warnings to `warn`.
    pub fn new(warn: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { counters: Arc::default(), warn: Arc::new(warn), interrupted: Arc::default() }
    }

    /// A monitor that drops warnings: for tests and for embedding.
    pub fn silent() -> Self {
        Self::new(|_| {})
    }

    /// Tells the user.
    pub fn warn(&self, message: impl Into<String>) {
        (self.warn)(message.into());
    }

    /// Asks the command to stop at the next safe point.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    /// Fails when the user asked to stop.
    pub fn check(&self) -> crate::Result<()> {
        if self.interrupted.load(Ordering::Relaxed) { Err(crate::Error::Interrupted) } else { Ok(()) }
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, bytes: u64) {
    counter.fetch_add(bytes, Ordering::Relaxed);
}
