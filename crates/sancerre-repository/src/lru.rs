//! An LRU cache bounded by bytes.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Values by key, at most so many bytes of them; what was not asked for the longest goes first. No two were asked for
/// at the same tick, so that runs of the same requests keep the same.
pub struct LruCache<K, V> {
    slots: HashMap<K, Slot<V>>,
    /// Keys by the tick of their last use, the oldest first.
    by_use: BTreeMap<u64, K>,
    bytes: u64,
    most_bytes: u64,
    tick: u64,
}

struct Slot<V> {
    value: V,
    bytes: u64,
    used: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> LruCache<K, V> {
    /// An empty one that holds at most so many bytes.
    pub fn new(most_bytes: u64) -> Self {
        Self { slots: HashMap::new(), by_use: BTreeMap::new(), bytes: 0, most_bytes, tick: 0 }
    }

    /// A copy of the value, which counts as used now.
    pub fn get(&mut self, key: &K) -> Option<V> {
        let slot = self.slots.get_mut(key)?;
        self.tick = self.tick.saturating_add(1);
        self.by_use.remove(&slot.used);
        self.by_use.insert(self.tick, *key);
        slot.used = self.tick;
        Some(slot.value.clone())
    }

    /// Adds a value that takes so many bytes, and drops those that were not used for longest.
    pub fn put(&mut self, key: K, value: V, bytes: u64) {
        self.remove(&key);
        self.tick = self.tick.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        self.by_use.insert(self.tick, key);
        self.slots.insert(key, Slot { value, bytes, used: self.tick });
        while self.bytes > self.most_bytes {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            let oldest = *oldest;
            self.remove(&oldest);
        }
    }

    /// Bytes of all values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn remove(&mut self, key: &K) {
        let Some(slot) = self.slots.remove(key) else { return };
        self.by_use.remove(&slot.used);
        self.bytes = self.bytes.saturating_sub(slot.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_the_longest_goes_first() {
        let mut cache = LruCache::new(10);
        cache.put(1, "one", 4);
        cache.put(2, "two", 4);
        assert_eq!(cache.get(&1), Some("one"));
        cache.put(3, "three", 4);
        assert_eq!([1, 2, 3].map(|key| cache.get(&key)), [Some("one"), None, Some("three")]);
        cache.put(4, "too much", 11);
        assert_eq!([1, 3, 4].map(|key| cache.get(&key)), [None; 3]);
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn what_was_never_asked_for_goes_in_order() {
        let mut cache = LruCache::new(10);
        (0..20).for_each(|key| cache.put(key, key, 1));
        assert!((0..20).all(|key| cache.get(&key).is_some() == (key >= 10)));
    }

    #[test]
    fn without_a_budget_nothing_is_kept() {
        let mut cache = LruCache::new(0);
        cache.put(1, "one", 1);
        assert_eq!((cache.get(&1), cache.bytes), (None, 0));
    }

    #[test]
    fn the_same_again_is_counted_once() {
        let mut cache = LruCache::new(10);
        for _ in 0..5 {
            cache.put(1, "one", 6);
        }
        cache.put(2, "two", 4);
        assert_eq!((cache.get(&1), cache.get(&2), cache.bytes), (Some("one"), Some("two"), 10));
    }
}
