//! Limits of speed: a bucket of tokens for each direction, shared by all requests of a store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::StoreOptions;
use crate::clock::monotonic;

/// How much may go at once after a pause.
const BURST: Duration = Duration::from_millis(100);
/// Pieces of a body: small enough that the line is never taken for long.
const PIECE_MIN: u64 = 1 << 10;
const PIECE_MAX: u64 = 64 << 10;

/// Hands out the right to move bytes, at an even rate.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    bytes_per_second: u64,
    /// When all that was handed out will have been used.
    paid_until: Mutex<Instant>,
}

impl TokenBucket {
    fn new(bytes_per_second: u64) -> Arc<Self> {
        let bytes_per_second = bytes_per_second.max(1);
        Arc::new(Self { bytes_per_second, paid_until: Mutex::new(monotonic()) })
    }

    /// Takes the right to move so many bytes; they may go after the pause that is returned.
    pub(crate) fn take(&self, bytes: usize) -> Duration {
        let now = monotonic();
        let costs = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let starts = (*paid_until).max(now.checked_sub(BURST).unwrap_or(now));
        *paid_until = starts.checked_add(costs).unwrap_or(starts);
        paid_until.saturating_duration_since(now)
    }
}

/// The limits of a store.
#[derive(Debug, Clone)]
pub(crate) struct RateLimits {
    pub(crate) up: Option<Arc<TokenBucket>>,
    pub(crate) down: Option<Arc<TokenBucket>>,
}

impl RateLimits {
    pub(crate) fn new(options: &StoreOptions) -> Self {
        Self {
            up: options.upload_limit.map(TokenBucket::new),
            down: options.download_limit.map(TokenBucket::new),
        }
    }

    /// Waits until these bytes may have been moved.
    pub(crate) async fn wait(&self, sent: usize, received: usize) {
        for (bucket, bytes) in [(&self.up, sent), (&self.down, received)] {
            if let Some(bucket) = bucket {
                tokio::time::sleep(bucket.take(bytes)).await;
            }
        }
    }
}

/// How much of a body goes at once under a limit.
pub(crate) fn piece_bytes(bucket: Option<&Arc<TokenBucket>>) -> usize {
    let rate = bucket.map_or(u64::MAX, |bucket| bucket.bytes_per_second);
    usize::try_from((rate / 8).clamp(PIECE_MIN, PIECE_MAX)).unwrap_or(usize::MAX)
}
