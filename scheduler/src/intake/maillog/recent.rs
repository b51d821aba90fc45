//! A map that keeps its newest keys only, so that its memory is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// A map of at most `max` keys. If another key is added, the oldest one is forgotten.
#[derive(Debug)]
pub(super) struct Recent<V> {
    max: usize,
    values: HashMap<Arc<str>, V>,
    /// The keys, the oldest first.
    order: VecDeque<Arc<str>>,
}

impl<V: Default> Recent<V> {
    /// An empty map for at most `max` keys.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            values: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Returns the value of a key, if it is still remembered.
    pub(super) fn get(&self, key: &str) -> Option<&V> {
        self.values.get(key)
    }

    /// Returns the value of a key, which is added if it is not there.
    pub(super) fn entry(&mut self, key: &str) -> &mut V {
        if !self.values.contains_key(key) {
            if self.order.len() >= self.max
                && let Some(oldest) = self.order.pop_front()
            {
                self.values.remove(&oldest);
            }
            let key: Arc<str> = key.into();
            self.order.push_back(key.clone());
            self.values.insert(key, V::default());
        }
        self.values
            .get_mut(key)
            .expect("the key was added if it was not there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_keys_are_kept() {
        let mut recent = Recent::new(3);
        for n in 0..5 {
            *recent.entry(&format!("k{n}")) = n;
        }
        *recent.entry("k2") += 10;
        assert_eq!(
            ["k1", "k2", "k3", "k4"].map(|key| recent.get(key).copied()),
            [None, Some(12), Some(3), Some(4)]
        );
        assert_eq!((recent.values.len(), recent.order.len()), (3, 3));
    }
}
