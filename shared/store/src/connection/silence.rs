//! Whether the servers have just been silent.
//!
//! A master that hung, or was cut off, may have been replaced meanwhile. When it continues, it does
//! not know that yet. It takes writes, and a replica that still follows it confirms them. These
//! writes are lost as soon as both follow the new master. So a write that is confirmed shortly
//! after a silence is in doubt.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// If calls wait this long and none is answered, that is a silence. Sentinels wait longer before
/// they look for a new master.
const SILENCE: Duration = Duration::from_millis(500);

/// How long after a silence a confirmed write is in doubt. After that, all replicas follow the new
/// master, so none confirms the writes of the old one.
const DOUBT: Duration = Duration::from_secs(5);

/// The calls of one process that a server answers at once. Reads that wait for new entries do not
/// count.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    /// Since when calls have waited and none was answered.
    waiting_since: Option<Instant>,
    doubt_ends: Option<Instant>,
}

/// A call that is under way until this is dropped.
pub(super) struct Call<'c> {
    calls: &'c Calls,
    is_over: bool,
}

impl Calls {
    /// Begins a call.
    pub(super) fn begin(&self) -> Call<'_> {
        self.begin_at(Instant::now())
    }

    fn begin_at(&self, now: Instant) -> Call<'_> {
        let mut state = self.state();
        state.under_way += 1;
        state.waiting_since.get_or_insert(now);
        Call {
            calls: self,
            is_over: false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call<'_> {
    /// Notes that the call was answered. Returns whether the answer is in doubt.
    pub(super) fn answered(&self) -> bool {
        self.answered_at(Instant::now())
    }

    fn answered_at(&self, now: Instant) -> bool {
        let mut state = self.calls.state();
        if state.is_silent(now) {
            state.doubt_ends = Some(now + DOUBT);
        }
        state.waiting_since = (state.under_way > 1).then_some(now);
        state.doubt_ends.is_some_and(|ends| now < ends)
    }

    fn end_at(&mut self, now: Instant) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let mut state = self.calls.state();
        state.under_way -= 1;
        // No call waits any more. If the last one had no answer for too short a time to be a
        // silence, it means nothing for the servers.
        if state.under_way == 0 && !state.is_silent(now) {
            state.waiting_since = None;
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.end_at(Instant::now());
    }
}

impl State {
    fn is_silent(&self, now: Instant) -> bool {
        self.waiting_since
            .is_some_and(|since| now.duration_since(since) >= SILENCE)
    }
}

/// The calls of one process, shared by all that make them.
pub(super) type SharedCalls = Arc<Calls>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_in_doubt_for_a_while_after_a_silence_but_not_after_idle_time() {
        let (calls, start) = (Calls::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        // When calls begin and are answered, and whether the answer is in doubt.
        for (begins, answered, expected) in [
            (0, 1, false),
            (60_000, 60_400, false),
            (60_500, 61_100, true),
            (61_200, 61_201, true),
            (66_000, 66_001, true),
            (66_200, 66_201, false),
        ] {
            assert_eq!(
                calls.begin_at(at(begins)).answered_at(at(answered)),
                expected,
                "{begins}"
            );
        }
    }

    #[test]
    fn late_calls_of_a_silence_are_in_doubt_as_well() {
        let (calls, start) = (Calls::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let (early, late) = (calls.begin_at(at(0)), calls.begin_at(at(990)));
        assert!(late.answered_at(at(1_000)));
        assert!(early.answered_at(at(1_001)));
        drop((early, late));
        // The caller has given up, and the next call is answered.
        calls.begin_at(at(10_000)).end_at(at(12_000));
        assert!(calls.begin_at(at(12_000)).answered_at(at(12_001)));
        // The same after a wait that was too short to be a silence.
        calls.begin_at(at(20_000)).end_at(at(20_100));
        assert!(!calls.begin_at(at(21_000)).answered_at(at(21_001)));
    }

    #[test]
    fn a_long_call_is_no_silence_while_other_calls_are_answered() {
        let (calls, start) = (Calls::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let long = calls.begin_at(at(0));
        for ms in (100..2_000).step_by(400) {
            assert!(!calls.begin_at(at(ms)).answered_at(at(ms + 1)));
        }
        assert!(!long.answered_at(at(2_000)));
    }
}
