//! What is on its way: who asks for it meanwhile waits for it, and does not ask again.
//!
//! Whoever waits also drives the work: the one who asked first may be a future that nobody polls just now. What nobody
//! waits for any longer ends where it is, and gives back what it holds.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

/// From so many on, those that ended are looked for and forgotten.
const CROWD: usize = 256;

/// Work of which there is at most one by key.
pub(super) struct Flights<K, V: Clone> {
    flying: Mutex<HashMap<K, WeakShared<BoxFuture<'static, V>>>>,
}

impl<K, V: Clone> Default for Flights<K, V> {
    fn default() -> Self {
        Self { flying: Mutex::default() }
    }
}

impl<K: Eq + Hash, V: Clone> Flights<K, V> {
    /// The work for this key: what is on its way, or what `start` makes.
    pub(super) fn join(
        &self,
        key: K,
        start: impl FnOnce() -> BoxFuture<'static, V>,
    ) -> Shared<BoxFuture<'static, V>> {
        let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flying.get(&key).and_then(WeakShared::upgrade) {
            return flight;
        }
        if flying.len() >= CROWD {
            flying.retain(|_, flight| flight.upgrade().is_some());
        }
        let flight = start().shared();
        if let Some(weak) = flight.downgrade() {
            flying.insert(key, weak);
        }
        flight
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn ask(flights: &Flights<u8, u8>, starts: &Arc<AtomicUsize>) -> Shared<BoxFuture<'static, u8>> {
        let starts = Arc::clone(starts);
        flights.join(7, || {
            starts.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::task::yield_now().await;
                9
            }
            .boxed()
        })
    }

    #[tokio::test]
    async fn many_who_ask_at_once_cost_one_attempt() {
        let (flights, starts) = (Flights::default(), Arc::default());
        let asked: Vec<_> = (0..32).map(|_| ask(&flights, &starts)).collect();
        assert_eq!(futures::future::join_all(asked).await, [9; 32]);
        assert_eq!(starts.load(Ordering::Relaxed), 1);
        ask(&flights, &starts).await;
        assert_eq!(starts.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn nobody_waits_for_one_who_stopped_asking() {
        let (flights, starts) = (Flights::default(), Arc::default());
        let mut first = ask(&flights, &starts);
        assert!(futures::poll!(&mut first).is_pending());
        // The first asks no further, and is still there.
        assert_eq!(ask(&flights, &starts).await, 9);
        drop(first);
        let mut gone = ask(&flights, &starts);
        assert!(futures::poll!(&mut gone).is_pending());
        drop(gone);
        assert_eq!(ask(&flights, &starts).await, 9);
        assert_eq!(starts.load(Ordering::Relaxed), 3);
    }
}
