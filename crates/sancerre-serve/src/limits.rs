//! What clients may take, and who hears of what they do.

use std::sync::Arc;
use std::time::Duration;

/// Takes a message for the log.
pub(crate) type Tell = Arc<dyn Fn(String) + Send + Sync>;

/// What one client, or all, may take.
#[derive(Debug, Clone)]
pub struct ClientLimits {
    /// Connections at once; more are closed at once.
    pub clients: usize,
    /// Requests under way on a connection; what comes beyond waits.
    pub requests: usize,
    /// Memory for answers on a connection.
    pub memory_bytes: u64,
    /// How long a client may take to agree on an export.
    pub handshake: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self { clients: 64, requests: 32, memory_bytes: 32 << 20, handshake: Duration::from_secs(30) }
    }
}
