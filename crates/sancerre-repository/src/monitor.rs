//! Progress and warnings on their way to whoever watches. The engine itself never prints.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::future::{Either, select};
use tokio::sync::Notify;

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
    interrupt: Arc<Interrupt>,
}

/// Whether the user asked to stop, and who waits to hear of it.
#[derive(Default)]
struct Interrupt {
    is_asked: AtomicBool,
    waiting: Notify,
}

impl Monitor {
    /// A monitor that passes warnings to `warn`.
    pub fn new(warn: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { counters: Arc::default(), warn: Arc::new(warn), interrupt: Arc::default() }
    }

    /// One that counts and stops with this one, and passes its warnings elsewhere: for one of several works of a command.
    pub fn warning_to(&self, warn: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { warn: Arc::new(warn), ..self.clone() }
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
        self.interrupt.is_asked.store(true, Ordering::SeqCst);
        self.interrupt.waiting.notify_waiters();
    }

    /// Fails when the user asked to stop.
    pub fn check(&self) -> crate::Result<()> {
        if self.interrupt.is_asked.load(Ordering::SeqCst) { Err(crate::Error::Interrupted) } else { Ok(()) }
    }

    /// Waits for `work`, but not longer than until the user asks to stop: for what may wait for ever and can be left
    /// where it is, such as a read of a source that stalls.
    pub async fn unless_interrupted<T>(
        &self,
        work: impl Future<Output = crate::Result<T>>,
    ) -> crate::Result<T> {
        // Made before the flag is looked at: it hears of all that comes from here on.
        let asked = pin!(self.interrupt.waiting.notified());
        self.check()?;
        match select(pin!(work), asked).await {
            Either::Left((done, _)) => done,
            Either::Right(((), _)) => Err(crate::Error::Interrupted),
        }
    }
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, bytes: u64) {
    counter.fetch_add(bytes, Ordering::Relaxed);
}
