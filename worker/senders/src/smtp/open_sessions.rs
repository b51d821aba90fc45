//! Bounds the sessions of all routes together. Before one more is opened than there may be, those
//! that were idle longest are left. It does not know why a session is opened, nor how.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

/// Of the sessions that are idle this part is left at once, so that it has not to be looked for
/// each time.
const PART: usize = 8;

/// Sessions that are kept somewhere.
pub(super) trait KeptSessions: Send + Sync {
    /// Notes since when each that is idle is so.
    fn note_idle(&self, since: &mut Vec<Instant>);

    /// Leaves those that have been idle since this instant or longer.
    fn leave_idle(&self, until: Instant);
}

/// The sessions that are open.
pub struct OpenSessions {
    most: usize,
    open: AtomicUsize,
    kept: Mutex<Vec<Weak<dyn KeptSessions>>>,
}

/// Counts one session for as long as it lives.
pub(super) struct Counted(Arc<OpenSessions>);

impl OpenSessions {
    /// No more than `most`, idle ones included; those in use are bounded by the attempts under way.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            open: AtomicUsize::new(0),
            kept: Mutex::default(),
        })
    }

    /// Sessions that are kept there may be left.
    pub(super) fn watch(&self, kept: Weak<dyn KeptSessions>) {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|kept| kept.strong_count() > 0);
        all.push(kept);
    }

    /// Counts one that is about to be opened, and makes room for it.
    pub(super) fn count(self: &Arc<Self>) -> Counted {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.make_room();
        }
        Counted(self.clone())
    }

    /// Leaves some that are idle, if any are.
    pub(super) fn make_room(&self) {
        let kept: Vec<_> = {
            let all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        let mut since = Vec::new();
        kept.iter().for_each(|kept| kept.note_idle(&mut since));
        if since.is_empty() {
            return;
        }
        let last = since.len() / PART;
        let (_, until, _) = since.select_nth_unstable(last);
        kept.iter().for_each(|kept| kept.leave_idle(*until));
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<(Instant, Counted)>>);

    impl KeptSessions for Kept {
        fn note_idle(&self, since: &mut Vec<Instant>) {
            since.extend(self.0.lock().unwrap().iter().map(|(since, _)| *since));
        }

        fn leave_idle(&self, until: Instant) {
            self.0.lock().unwrap().retain(|(since, _)| *since > until);
        }
    }

    #[test]
    fn there_are_never_more_than_may_be_and_the_longest_idle_go_first() {
        const MOST: usize = 40;
        let (sessions, start) = (OpenSessions::new(MOST), Instant::now());
        let pools: Vec<Arc<Kept>> = (0..3).map(|_| Arc::default()).collect();
        for pool in &pools {
            let pool: Arc<dyn KeptSessions> = pool.clone();
            sessions.watch(Arc::downgrade(&pool));
        }
        for n in 0..1_000 {
            let counted = sessions.count();
            assert!(sessions.open.load(Ordering::Relaxed) <= MOST, "{n}");
            let since = start + Duration::from_secs(n);
            pools[n as usize % 3]
                .0
                .lock()
                .unwrap()
                .push((since, counted));
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
            "those that were used last are kept"
        );
        drop(pools);
        assert_eq!(sessions.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn those_in_use_are_not_left() {
        let sessions = OpenSessions::new(1);
        let in_use: Vec<_> = (0..3).map(|_| sessions.count()).collect();
        assert_eq!(sessions.open.load(Ordering::Relaxed), in_use.len());
    }
}
