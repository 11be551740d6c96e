//! The one switch that stops work.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Stops what was given a clone of it: work ends at its next safe point, and nobody waits for a store that is away. It cannot
/// be set back.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Signal>);

#[derive(Default)]
struct Signal {
    is_set: AtomicBool,
    changed: Notify,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_set()).finish()
    }
}

impl Cancel {
    /// Stops all of it, now and from now on.
    pub fn now(&self) {
        self.0.is_set.store(true, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }

    /// Whether it was stopped.
    pub fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::SeqCst)
    }

    /// Waits until it is stopped.
    pub async fn wait(&self) {
        // Made before the flag is looked at: it hears of all that comes from here on.
        let changed = self.0.changed.notified();
        if !self.is_set() {
            changed.await;
        }
    }
}
