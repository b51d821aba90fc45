//! Limits the open sessions of all routes together. If a new session would exceed the limit, the
//! sessions that were idle longest are closed first. This module does not know why or how a session
//! is opened.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

/// To make room, one in this many idle sessions is closed. So not every new session has to search.
const EVICTED_PART: usize = 8;

/// A collection of sessions, some of which may be idle.
pub(super) trait IdleSessions: Send + Sync {
    /// Appends the instant since which each idle session has been idle.
    fn collect_idle_since(&self, since: &mut Vec<Instant>);

    /// Closes the sessions that have been idle since `until` or longer.
    fn close_idle(&self, until: Instant);
}

/// The count of open sessions, and its limit.
pub struct OpenSessions {
    max: usize,
    open: AtomicUsize,
    collections: Mutex<Vec<Weak<dyn IdleSessions>>>,
}

/// Counts one session while it lives.
pub(super) struct CountGuard(Arc<OpenSessions>);

impl OpenSessions {
    /// Allows at most `max` sessions, idle ones included. Sessions in use may exceed this limit:
    /// only the number of running attempts limits them.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            open: AtomicUsize::new(0),
            collections: Mutex::default(),
        })
    }

    /// Adds a collection whose idle sessions may be closed to make room.
    pub(super) fn watch(&self, collection: Weak<dyn IdleSessions>) {
        let mut all = self
            .collections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(collection);
    }

    /// Counts a session that is about to be opened, and makes room for it.
    pub(super) fn count(self: &Arc<Self>) -> CountGuard {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.make_room();
        }
        CountGuard(self.clone())
    }

    /// Closes some idle sessions, if there are any.
    pub(super) fn make_room(&self) {
        let collections: Vec<_> = {
            let all = self
                .collections
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        let mut since = Vec::new();
        for collection in &collections {
            collection.collect_idle_since(&mut since);
        }
        if since.is_empty() {
            return;
        }
        let last_closed = since.len() / EVICTED_PART;
        let (_, until, _) = since.select_nth_unstable(last_closed);
        for collection in &collections {
            collection.close_idle(*until);
        }
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<(Instant, CountGuard)>>);

    impl IdleSessions for Kept {
        fn collect_idle_since(&self, since: &mut Vec<Instant>) {
            since.extend(self.0.lock().unwrap().iter().map(|(since, _)| *since));
        }

        fn close_idle(&self, until: Instant) {
            self.0.lock().unwrap().retain(|(since, _)| *since > until);
        }
    }

    #[test]
    fn the_limit_holds_and_the_longest_idle_sessions_are_closed_first() {
        const MAX: usize = 40;
        let (sessions, start) = (OpenSessions::new(MAX), Instant::now());
        let pools: Vec<Arc<Kept>> = (0..3).map(|_| Arc::default()).collect();
        for pool in &pools {
            let pool: Arc<dyn IdleSessions> = pool.clone();
            sessions.watch(Arc::downgrade(&pool));
        }
        for n in 0..1_000 {
            let count_guard = sessions.count();
            assert!(sessions.open.load(Ordering::Relaxed) <= MAX, "{n}");
            let since = start + Duration::from_secs(n);
            pools[n as usize % 3]
                .0
                .lock()
                .unwrap()
                .push((since, count_guard));
        }
        let oldest = pools.iter().flat_map(|pool| {
            pool.0
                .lock()
                .unwrap()
                .iter()
                .map(|kept| kept.0)
                .collect::<Vec<_>>()
        });
        assert!(
            oldest.min().unwrap() >= start + Duration::from_secs(950),
            "the sessions that were used last are kept"
        );
        drop(pools);
        assert_eq!(sessions.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn sessions_in_use_are_not_closed() {
        let sessions = OpenSessions::new(1);
        let in_use: Vec<_> = (0..3).map(|_| sessions.count()).collect();
        assert_eq!(sessions.open.load(Ordering::Relaxed), in_use.len());
    }
}
