//! Progress and events on their way to whoever watches, and the way to stop. The engine itself never prints.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::{Either, select};

pub use sancerre_store::Cancel;

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

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Topic {
    /// Something stored is damaged or gone. The work goes on without it or with a copy, and a check says what depends on it.
    Damage,
    /// A hint is not used (index, cache, map or statistics of an earlier night): the work takes longer, or more is stored.
    Hint,
    /// A disk or stream is not what it was, or not as it should be.
    Source,
    /// A key, a lock, a suspicion: somebody should decide or do something soon.
    Policy,
    /// A step beside the work could not be done. What was asked for is done all the same.
    Aside,
    /// Somebody else's work is waited for.
    Waiting,
}

/// Something the user should know although the command goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub topic: Topic,
    /// What happened, on which object or disk, and what to do.
    pub message: String,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Hears of events.
pub type Listener = dyn Fn(Event) + Send + Sync;

/// Watches a command and can stop it.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use sancerre_repository::monitor::{Cancel, Monitor, Topic};
///
/// let heard = Arc::new(Mutex::new(Vec::new()));
/// let hears = Arc::clone(&heard);
/// let cancel = Cancel::default();
/// let monitor = Monitor::new(move |event| hears.lock().unwrap().push(event)).stopped_by(&cancel);
///
/// monitor.warn(Topic::Hint, "the index is ignored");
/// assert_eq!(heard.lock().unwrap()[0].topic, Topic::Hint);
/// cancel.now();
/// assert!(monitor.check().is_err());
/// ```
#[derive(Clone)]
pub struct Monitor {
    /// Counters, updated as the command goes.
    pub counters: Arc<Counters>,
    listener: Arc<Listener>,
    cancel: Cancel,
}

impl Monitor {
    /// A monitor that passes events to `listener`.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { counters: Arc::default(), listener: Arc::new(listener), cancel: Cancel::default() }
    }

    /// One that stops with this one, counts for itself, and passes its events elsewhere: for one of several works of a command.
    pub fn counting_apart(&self, listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { counters: Arc::default(), listener: Arc::new(listener), ..self.clone() }
    }

    /// A monitor that drops events: for tests and for embedding.
    pub fn silent() -> Self {
        Self::new(|_| {})
    }

    /// The same, stopped by this switch. Who gives it to the store too
    /// ([`StoreOptions::cancel`](sancerre_store::StoreOptions)) stops both at once.
    pub fn stopped_by(self, cancel: &Cancel) -> Self {
        Self { cancel: cancel.clone(), ..self }
    }

    /// Tells whoever listens.
    pub fn warn(&self, topic: Topic, message: impl Into<String>) {
        (self.listener)(Event { topic, message: message.into() });
    }

    /// Asks the command to stop at the next safe point.
    pub fn interrupt(&self) {
        self.cancel.now();
    }

    /// Fails when the user asked to stop.
    pub fn check(&self) -> crate::Result<()> {
        if self.cancel.is_set() { Err(crate::Error::Interrupted) } else { Ok(()) }
    }

    /// Waits for `work`, but not longer than until the user asks to stop: for what may wait for ever and can be left
    /// where it is, such as a read of a source that stalls.
    pub async fn unless_interrupted<T>(
        &self,
        work: impl Future<Output = crate::Result<T>>,
    ) -> crate::Result<T> {
        self.check()?;
        match select(pin!(work), pin!(self.cancel.wait())).await {
            Either::Left((done, _)) => done,
            Either::Right(((), _)) => Err(crate::Error::Interrupted),
        }
    }
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, bytes: u64) {
    counter.fetch_add(bytes, Ordering::Relaxed);
}
