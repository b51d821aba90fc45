//! Notices that the clock of a Redis server was set, or that another server with another clock has taken over: then what was
//! computed by the old clock has to be looked at now, and not when the clock has caught up.

use std::time::Duration;

use shared::clock::Timestamp;
use shared::store::{Store, StoreError};

/// How often the clocks are looked at, in real time.
pub(super) const WATCH: Duration = Duration::from_secs(5);

/// By how much a clock may be off without having been set.
const TOLERANCE_MS: i64 = 1_000;

/// By how much the server of each shard was ahead of this process's running time when it was last asked.
#[derive(Debug, Default)]
pub(super) struct ClockWatch(Vec<Option<Lead>>);

/// Between which bounds a lead is, in ms: the answer was made at some time while it was waited for.
#[derive(Clone, Copy, Debug)]
struct Lead {
    least: i64,
    most: i64,
}

impl ClockWatch {
    /// Asks each shard's server. Tells by how many ms a clock was set since the last time, if one was: the largest such step.
    pub(super) async fn look(&mut self, store: &Store) -> Result<Option<i64>, StoreError> {
        self.0.resize(usize::from(store.shards()), None);
        let mut largest: Option<i64> = None;
        for (shard, known) in (0..).zip(&mut self.0) {
            let before = store.clock().running();
            let now = store.clock_of(shard).await?;
            let lead = Lead::new(now, before, store.clock().running());
            let step = known.replace(lead).and_then(|known| known.step_to(lead));
            largest = largest.into_iter().chain(step).max_by_key(|step| step.abs());
        }
        Ok(largest)
    }
}

impl Lead {
    fn new(now: Timestamp, before: Duration, after: Duration) -> Self {
        let ms = |running: Duration| i64::try_from(running.as_millis()).unwrap_or(i64::MAX);
        Self { least: now.ms().saturating_sub(ms(after)), most: now.ms().saturating_sub(ms(before)) }
    }

    /// By how much the clock was set at least to get from here to there.
    fn step_to(self, later: Self) -> Option<i64> {
        let (ahead, back) = (later.least - self.most, self.least - later.most);
        match (ahead > TOLERANCE_MS, back > TOLERANCE_MS) {
            (true, _) => Some(ahead),
            (_, true) => Some(-back),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_from_an_answer_that_takes_long() {
        let second = Duration::from_secs(1);
        let lead =
            |now_ms, before_s, after_s| Lead::new(Timestamp::from_ms(now_ms), before_s * second, after_s * second);
        let start = lead(1_000_000, 10, 10);
        for (later, step) in [
            (lead(1_005_000, 15, 15), None),
            (lead(1_005_900, 15, 15), None),
            (lead(1_030_000, 15, 45), None),
            (lead(1_015_000, 15, 15), Some(10_000)),
            (lead(1_035_000, 15, 45), None),
            (lead(4_605_000, 15, 15), Some(3_600_000)),
            (lead(-2_595_000, 15, 15), Some(-3_600_000)),
        ] {
            assert_eq!(start.step_to(later), step, "{later:?}");
        }
    }
}
