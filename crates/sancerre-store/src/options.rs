//! How a store is used.

use std::sync::Arc;
use std::time::Duration;

use crate::Cancel;

/// How a store is used.
#[derive(Clone)]
pub struct StoreOptions {
    /// How long an outage of the store is waited out.
    pub retry_for: Duration,
    /// Bytes a second that are sent at most.
    pub upload_limit: Option<u64>,
    /// Bytes a second that are received at most.
    pub download_limit: Option<u64>,
    /// How long a request may make no progress before it counts as lost. The answer to a large upload may take three
    /// times as long: its last bytes are still under way when the last was handed over.
    pub stall: Duration,
    /// How many files of a folder may be open at once.
    pub files: usize,
    /// Spreads the retries of hosts that failed at the same moment: any number that differs between processes.
    pub salt: u64,
    /// Tells the user that the store is away, and that it is back.
    pub notice: Arc<dyn Fn(String) + Send + Sync>,
    /// Ends the waiting when the user asks to stop.
    pub cancel: Cancel,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            retry_for: Duration::from_secs(15 * 60),
            upload_limit: None,
            download_limit: None,
            stall: Duration::from_secs(60),
            files: usize::MAX,
            salt: 0,
            notice: Arc::new(|_| {}),
            cancel: Cancel::default(),
        }
    }
}
