//! Tables and decompressed clusters that were read lately, within a bound on their bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::positional::length;

/// Which image of the chain, and where in its file.
pub(super) type Key = (usize, u64);

/// Keeps what was used lately. Two threads that miss the same key both read it: the bytes are the same.
#[derive(Debug)]
pub(super) struct Cache {
    limit_bytes: u64,
    generations: Mutex<Generations>,
}

/// What is used moves to the young; when those are half of all that may be, the old are dropped and the young are old.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, Arc<[u8]>>,
    young_bytes: u64,
    old: HashMap<Key, Arc<[u8]>>,
}

impl Cache {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, generations: Mutex::default() }
    }

    /// The bytes of this key, read with `read` when they are not there.
    pub(super) fn get<E>(
        &self,
        key: Key,
        read: impl FnOnce() -> Result<Arc<[u8]>, E>,
    ) -> Result<Arc<[u8]>, E> {
        if let Some(found) = self.find(key) {
            return Ok(found);
        }
        let bytes = read()?;
        self.with(|generations| generations.put(key, Arc::clone(&bytes), self.limit_bytes / 2));
        Ok(bytes)
    }

    fn find(&self, key: Key) -> Option<Arc<[u8]>> {
        self.with(|generations| {
            if let Some(found) = generations.young.get(&key) {
                return Some(Arc::clone(found));
            }
            let found = generations.old.remove(&key)?;
            generations.put(key, Arc::clone(&found), self.limit_bytes / 2);
            Some(found)
        })
    }

    /// Nothing that is done under the lock leaves the maps half changed, so a thread that died with it did no harm.
    fn with<T>(&self, act: impl FnOnce(&mut Generations) -> T) -> T {
        act(&mut self.generations.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> u64 {
        self.with(|all| all.young.values().chain(all.old.values()).map(|bytes| length(bytes)).sum())
    }
}

impl Generations {
    fn put(&mut self, key: Key, bytes: Arc<[u8]>, half_bytes: u64) {
        let added = length(&bytes);
        if self.young_bytes.saturating_add(added) > half_bytes {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        // What is larger than the bound is not kept; no table of an image is.
        if added <= half_bytes && self.young.insert(key, bytes).is_none() {
            self.young_bytes = self.young_bytes.saturating_add(added);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_its_bound_and_keeps_what_is_used() {
        let cache = Cache::new(1000);
        let read = |number: u64| cache.get((0, number), || Ok::<_, ()>(vec![number as u8; 100].into()));
        let mut reads_of_zero = 0;
        for number in 0..100u64 {
            assert_eq!(read(number).unwrap()[0], number as u8);
            let again = cache.get((0, 0), || {
                reads_of_zero += 1;
                Ok::<_, ()>(vec![0; 100].into())
            });
            assert_eq!(again.unwrap()[0], 0);
            assert!(cache.held_bytes() <= 1000, "{}", cache.held_bytes());
        }
        assert_eq!(reads_of_zero, 0);
        assert_eq!(cache.get((1, 0), || Err(7)).unwrap_err(), 7);
    }
}
