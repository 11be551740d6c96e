//! What clients may take, and who hears of what they do.

use std::io;
use std::sync::Arc;
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
    permits: Arc<Semaphore>,
    units: u32,
}

impl ClientMemory {
    /// Of so many bytes. A request that needs more waits for all of them.
    pub fn new(bytes: u64) -> Self {
        let units = units(bytes);
        Self { permits: Arc::new(Semaphore::new(usize::try_from(units).unwrap_or(1))), units }
    }

    /// Memory for so many bytes, as zeros.
    pub(crate) async fn hold(&self, bytes: u64) -> Result<Held, ReadFailure> {
        let permit = Arc::clone(&self.permits).acquire_many_owned(units(bytes).min(self.units)).await;
        let permit = permit.map_err(|_| ReadFailure("the server ends".to_owned()))?;
        Ok(Held { bytes: vec![0; usize::try_from(bytes).unwrap_or(0)], _permit: permit })
    }

    /// Waits for a step of a client that holds memory: without an end while there is enough of it for others.
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
                Err(_) if self.is_scarce() => {
                    let words = "the client stood still in the middle of an answer or a write, and others need the memory";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, words));
                }
                Err(_) => {}
            }
        }
    }

    fn is_scarce(&self) -> bool {
        u32::try_from(self.permits.available_permits()).is_ok_and(|free| free < self.units / 2)
    }
}

/// Bytes, with the memory that they take.
pub(crate) struct Held {
    pub(crate) bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4)
}
