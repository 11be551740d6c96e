//! The last values that were asked for, each read once however many ask for it.
//!
//! Whoever waits also drives the read: the one who asked first may be a future that nobody polls just now.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

/// At most so many values, by key.
pub(super) struct SingleFlight<K, V> {
    slots: Mutex<VecDeque<(K, Reading<V>)>>,
    most: usize,
}

type Reading<V> = Shared<BoxFuture<'static, V>>;

impl<K: PartialEq, V: Clone> SingleFlight<K, V> {
    pub(super) fn new(most: usize) -> Self {
        Self { slots: Mutex::default(), most }
    }

    /// The value, which `read` gets if nobody has or does already.
    pub(super) fn get(&self, key: K, read: impl FnOnce() -> BoxFuture<'static, V>) -> Reading<V> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, reading)) = slots.iter().find(|(known, _)| *known == key) {
            return reading.clone();
        }
        if slots.len() >= self.most {
            slots.pop_front();
        }
        let reading = read().shared();
        slots.push_back((key, reading.clone()));
        reading
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn ask(single_flight: &SingleFlight<u8, u8>, reads: &Arc<AtomicUsize>, key: u8) -> Reading<u8> {
        let reads = Arc::clone(reads);
        let read = async move {
            tokio::task::yield_now().await;
            reads.fetch_add(1, Ordering::Relaxed);
            key
        };
        single_flight.get(key, || read.boxed())
    }

    #[tokio::test]
    async fn many_who_ask_at_once_cost_one_read() {
        let (single_flight, reads) = (SingleFlight::new(2), Arc::default());
        let answers = [1, 2, 1, 1].map(|key| ask(&single_flight, &reads, key));
        assert_eq!(futures::future::join_all(answers).await, [1, 2, 1, 1]);
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        // A third key takes the place of the first.
        for key in [3, 2, 1] {
            assert_eq!(ask(&single_flight, &reads, key).await, key);
        }
        assert_eq!(reads.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn nobody_waits_for_one_who_stopped_asking() {
        let (single_flight, reads) = (SingleFlight::new(2), Arc::default());
        let mut first = ask(&single_flight, &reads, 1);
        assert!(futures::poll!(&mut first).is_pending());
        assert_eq!(ask(&single_flight, &reads, 1).await, 1);
        assert_eq!(first.await, 1);
    }
}
