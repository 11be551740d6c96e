//! What was read last, within a budget: who comes to the same place again does not read it again.

use std::collections::HashMap;
use std::hash::Hash;

/// Values by key, at most so many bytes of them; what was not asked for the longest goes first. No two were asked for
/// at the same tick, so that runs of the same requests keep the same.
pub struct Kept<K, V> {
    slots: HashMap<K, Slot<V>>,
    bytes: u64,
    most_bytes: u64,
    tick: u64,
}

struct Slot<V> {
    value: V,
    bytes: u64,
    used: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> Kept<K, V> {
    /// An empty one that holds at most so many bytes.
    pub fn new(most_bytes: u64) -> Self {
        Self { slots: HashMap::new(), bytes: 0, most_bytes, tick: 0 }
    }

    /// A copy of the value, which counts as used now.
    pub fn get(&mut self, key: &K) -> Option<V> {
        self.tick = self.tick.saturating_add(1);
        let slot = self.slots.get_mut(key)?;
        slot.used = self.tick;
        Some(slot.value.clone())
    }

    /// Adds a value that takes so many bytes, and drops those that were not used for longest.
    pub fn put(&mut self, key: K, value: V, bytes: u64) {
        self.tick = self.tick.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        let before = self.slots.insert(key, Slot { value, bytes, used: self.tick });
        self.bytes = self.bytes.saturating_sub(before.map_or(0, |slot| slot.bytes));
        while self.bytes > self.most_bytes {
            let oldest = self.slots.iter().min_by_key(|(_, slot)| slot.used).map(|(key, _)| *key);
            let Some(slot) = oldest.and_then(|oldest| self.slots.remove(&oldest)) else { break };
            self.bytes = self.bytes.saturating_sub(slot.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_the_longest_goes_first() {
        let mut kept = Kept::new(10);
        kept.put(1, "one", 4);
        kept.put(2, "two", 4);
        assert_eq!(kept.get(&1), Some("one"));
        kept.put(3, "three", 4);
        assert_eq!([1, 2, 3].map(|key| kept.get(&key)), [Some("one"), None, Some("three")]);
        kept.put(4, "too much", 11);
        assert_eq!([1, 3, 4].map(|key| kept.get(&key)), [None; 3]);
        assert_eq!(kept.bytes, 0);
    }

    #[test]
    fn what_was_never_asked_for_goes_in_order() {
        let mut kept = Kept::new(10);
        (0..20).for_each(|key| kept.put(key, key, 1));
        assert!((0..20).all(|key| kept.get(&key).is_some() == (key >= 10)));
    }

    #[test]
    fn without_a_budget_nothing_is_kept() {
        let mut kept = Kept::new(0);
        kept.put(1, "one", 1);
        assert_eq!((kept.get(&1), kept.bytes), (None, 0));
    }

    #[test]
    fn the_same_again_is_counted_once() {
        let mut kept = Kept::new(10);
        for _ in 0..5 {
            kept.put(1, "one", 6);
        }
        kept.put(2, "two", 4);
        assert_eq!((kept.get(&1), kept.get(&2), kept.bytes), (Some("one"), Some("two"), 10));
    }
}
