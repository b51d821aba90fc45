//! What this process knows of placements without asking Redis. It is bounded: the placements that
//! were used recently are kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::destination::Destination;
use placement::providers::Providers;

mod recent;

use recent::Recent;

/// How many placements are kept at most.
#[derive(Clone, Copy, Debug)]
pub struct PlaceBounds {
    /// In Redis, of all domains together. Beyond this number, a new domain is placed by the
    /// configuration alone, each time anew.
    pub kept_max: u64,
    /// In the memory of this process.
    pub cached_max: usize,
}

impl Default for PlaceBounds {
    /// A million, and fifty thousand.
    fn default() -> Self {
        Self {
            kept_max: 1_000_000,
            cached_max: 50_000,
        }
    }
}

/// What a store knows of placements without asking Redis.
pub(crate) struct Places {
    pub(crate) providers: Providers,
    pub(crate) bounds: PlaceBounds,
    pub(crate) recent: Mutex<Recent>,
    /// Placements of shards that may have lost them. They are kept until they are written there
    /// again.
    pub(crate) unrestored: Mutex<Recent>,
    /// How many placements each shard has in Redis, as of the last check.
    pub(crate) kept: Vec<AtomicU64>,
    pub(crate) has_warned_full: AtomicBool,
}

impl Places {
    pub(crate) fn new(providers: Providers, bounds: PlaceBounds, shards: u16) -> Self {
        let [recent, unrestored] = [(); 2].map(|()| Mutex::new(Recent::new(bounds.cached_max)));
        let kept = (0..shards).map(|_| AtomicU64::new(0)).collect();
        Self {
            providers,
            bounds,
            recent,
            unrestored,
            kept,
            has_warned_full: AtomicBool::new(false),
        }
    }

    pub(crate) fn recent(&self) -> MutexGuard<'_, Recent> {
        // A panic while the lock was held leaves the map in a valid state.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Code that takes both locks takes `recent` first.
    pub(crate) fn unrestored(&self) -> MutexGuard<'_, Recent> {
        self.unrestored
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the destinations of domains as far as they are remembered, in the order given.
    pub(crate) fn remembered(&self, domains: &[&str]) -> Vec<Option<Destination>> {
        let (mut recent, mut unrestored) = (self.recent(), self.unrestored());
        domains
            .iter()
            .map(|domain| recent.get(domain).or_else(|| unrestored.get(domain)))
            .collect()
    }

    /// Begins to restore some domains: returns what is remembered of them. It stays remembered
    /// until [`end_restoring`](Self::end_restoring).
    pub(crate) fn begin_restoring(
        &self,
        is_restored: impl Fn(&str) -> bool,
    ) -> HashMap<Box<str>, Destination> {
        let (mut recent, mut unrestored) = (self.recent(), self.unrestored());
        let mut remembered = HashMap::new();
        // What was learned last comes first, and takes precedence.
        let known = recent
            .forget(&is_restored)
            .into_iter()
            .chain(unrestored.forget(&is_restored));
        for (domain, destination) in known {
            remembered.entry(domain).or_insert(destination);
        }
        remembered
            .iter()
            .for_each(|(domain, destination)| unrestored.put(domain, destination));
        remembered
    }

    /// Ends restoring these domains: from now on Redis is asked about them.
    pub(crate) fn end_restoring(&self, is_restored: impl Fn(&str) -> bool) {
        self.unrestored().forget(is_restored);
    }

    pub(crate) fn is_full(&self, shard: u16) -> bool {
        let share = self.bounds.kept_max.div_ceil(self.kept.len() as u64);
        let full = self.kept[usize::from(shard)].load(Ordering::Relaxed) >= share;
        if full && !self.has_warned_full.swap(true, Ordering::Relaxed) {
            let kept_max = self.bounds.kept_max;
            tracing::warn!(
                kept_max,
                "redis keeps no more placements, so a change of providers moves new domains; \
                 raise placement.kept_max if redis has the memory"
            );
        }
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placements_are_remembered_until_they_are_restored() {
        let places = Places::new(Providers::default(), PlaceBounds::default(), 1);
        let is_lost = |domain: &str| domain.starts_with("lost");
        let [old, new] = ["old", "new"].map(Destination::named);
        let domains = ["kept.example", "lost1.example", "lost2.example"];
        domains
            .iter()
            .for_each(|domain| places.recent().put(domain, &old));
        let remembered = || {
            places
                .remembered(&domains)
                .into_iter()
                .map(|kept| kept.unwrap())
        };
        assert_eq!(places.begin_restoring(is_lost).len(), 2);
        assert!(remembered().eq([old.clone(), old.clone(), old.clone()]));
        // Restoring fails. What is learned before the next try takes precedence.
        places.recent().put("lost2.example", &new);
        assert!(remembered().eq([old.clone(), old.clone(), new.clone()]));
        let again = places.begin_restoring(is_lost);
        assert_eq!(again.len(), 2);
        assert_eq!(
            (&again["lost1.example"], &again["lost2.example"]),
            (&old, &new)
        );
        assert!(remembered().eq([old.clone(), old.clone(), new]));
        places.end_restoring(is_lost);
        assert_eq!(
            places.remembered(&domains),
            [Some(old), None, None],
            "Redis is asked"
        );
    }
}
