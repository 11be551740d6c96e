//! What clients may take, and who hears of what they do.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::export::ReadFailure;

/// Takes a message for the log.
pub(crate) type Tell = Arc<dyn Fn(String) + Send + Sync>;

/// Memory is counted in these, because permits are 32-bit numbers.
const UNIT_BYTES: u64 = 1 << 10;

/// What one client, or all, may take.
#[derive(Debug, Clone)]
pub struct ClientLimits {
    /// Connections at once; more are closed at once.
    pub clients: usize,
    /// Requests under way on a connection; what comes beyond waits.
    pub requests: usize,
    /// For answers and writes under way, of all clients of all servers that have a copy of this.
    pub memory: ClientMemory,
    /// How long a client may take to agree on an export, and how long one that holds memory may stand still while others
    /// need it.
    pub patience: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        let memory = ClientMemory::new(32 << 20);
        Self { clients: 64, requests: 32, memory, patience: Duration::from_secs(30) }
    }
}

/// A budget of memory; copies are the same budget.
#[derive(Debug, Clone)]
pub struct ClientMemory {
    all: Arc<Semaphore>,
    /// How many wait for it.
    waiting: Arc<AtomicUsize>,
    units: u32,
}

impl ClientMemory {
    /// Of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let units = units(bytes).max(2);
        Self { all: semaphore(units), waiting: Arc::default(), units }
    }

    /// What one connection may take of it: half, so that it never waits for itself alone.
    pub(crate) fn of_connection(&self) -> ConnectionMemory {
        ConnectionMemory { shared: self.clone(), own: semaphore(self.units / 2) }
    }
}

/// A connection's part of a budget.
pub(crate) struct ConnectionMemory {
    shared: ClientMemory,
    own: Arc<Semaphore>,
}

impl ConnectionMemory {
    /// Memory for so many bytes, as zeros. What needs more than the connection may have waits for all of that.
    pub(crate) async fn hold(&self, bytes: u64) -> Result<Held, ReadFailure> {
        let units = units(bytes).min(self.shared.units / 2);
        let ended = |_| ReadFailure("the server ends".to_owned());
        let own = Arc::clone(&self.own).acquire_many_owned(units).await.map_err(ended)?;
        let waiting = Waiting::new(&self.shared.waiting);
        let shared = Arc::clone(&self.shared.all).acquire_many_owned(units).await.map_err(ended)?;
        drop(waiting);
        Ok(Held { bytes: vec![0; usize::try_from(bytes).unwrap_or(0)], _permits: [own, shared] })
    }

    /// Waits for a step of a client that holds memory: without an end unless others wait for memory.
    ///
    /// Errors: the step's; one of kind `TimedOut`.
    pub(crate) async fn bear<T>(
        &self,
        patience: Duration,
        step: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let mut step = std::pin::pin!(step);
        loop {
            match tokio::time::timeout(patience, &mut step).await {
                Ok(done) => return done,
                Err(_) if self.shared.waiting.load(Ordering::Relaxed) > 0 => {
                    let words = "the client stood still in the middle of an answer or a write, and others need the memory";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, words));
                }
                Err(_) => {}
            }
        }
    }
}

/// Somebody waits for memory, until this is dropped.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes, with the memory that they take.
pub(crate) struct Held {
    pub(crate) bytes: Vec<u8>,
    _permits: [OwnedSemaphorePermit; 2],
}

fn semaphore(units: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(units).unwrap_or(1)))
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4)
}
