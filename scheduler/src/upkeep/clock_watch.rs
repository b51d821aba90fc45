//! Detects that the clock of a Redis server was set, or that a server with another clock has taken
//! over. Instants that were computed by the old clock must then be checked at once, and not only
//! when the new clock reaches them.

use std::time::Duration;

use domain::clock::Timestamp;
use store::error::StoreError;
use store::handle::Store;

/// How often the clocks are read, in real time.
pub(super) const WATCH: Duration = Duration::from_secs(5);

/// How far a clock may be off without counting as set, in ms.
const TOLERANCE_MS: i64 = 1_000;

/// For each shard, how far the clock of its server was ahead of this process's running time when
/// that clock was last read.
#[derive(Debug, Default)]
pub(super) struct ClockWatch(Vec<Option<Lead>>);

/// How far a server's clock is ahead of this process's running time: the least and the most, in ms.
/// It is not known exactly, because the server read its clock at some time while we waited for the
/// answer.
#[derive(Clone, Copy, Debug)]
struct Lead {
    least: i64,
    most: i64,
}

impl ClockWatch {
    /// Reads the clock of each shard's server. Returns by how many ms a clock was set since the
    /// last call, or `None` if none was. If several were set, returns the largest step.
    ///
    /// # Errors
    /// If a server did not answer, and the clock of no other server was set.
    pub(super) async fn find_step(&mut self, store: &Store) -> Result<Option<i64>, StoreError> {
        let mut answers = Vec::new();
        for shard in 0..store.shards() {
            let before = store.clock().monotonic();
            let now = store.clock_of(shard).await;
            answers.push(now.map(|now| Lead::new(now, before, store.clock().monotonic())));
        }
        self.record(answers)
    }

    /// Records the answers of the servers. A step is returned even if another server did not
    /// answer, because the next call would not find it again.
    fn record(
        &mut self,
        answers: Vec<Result<Lead, StoreError>>,
    ) -> Result<Option<i64>, StoreError> {
        self.0.resize(answers.len(), None);
        let (mut largest, mut failed): (Option<i64>, _) = (None, None);
        for (known, answer) in self.0.iter_mut().zip(answers) {
            match answer {
                Ok(lead) => {
                    let step = known.replace(lead).and_then(|known| known.step_to(lead));
                    largest = largest
                        .into_iter()
                        .chain(step)
                        .max_by_key(|step| step.abs());
                }
                Err(err) => failed = Some(err),
            }
        }
        match (largest, failed) {
            (None, Some(err)) => Err(err),
            _ => Ok(largest),
        }
    }
}

impl Lead {
    fn new(now: Timestamp, before: Duration, after: Duration) -> Self {
        let ms = |running: Duration| i64::try_from(running.as_millis()).unwrap_or(i64::MAX);
        Self {
            least: now.ms().saturating_sub(ms(after)),
            most: now.ms().saturating_sub(ms(before)),
        }
    }

    /// Returns by how much the clock was set at least between these two leads. Returns `None` if
    /// they can be explained without a step.
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
    fn a_slow_answer_is_not_a_step_of_the_clock() {
        let second = Duration::from_secs(1);
        let lead = |now_ms, before_s, after_s| {
            Lead::new(
                Timestamp::from_ms(now_ms),
                before_s * second,
                after_s * second,
            )
        };
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

    #[test]
    fn a_step_is_found_even_if_other_shards_do_not_answer() {
        let at = |now_ms| {
            Ok(Lead::new(
                Timestamp::from_ms(now_ms),
                Duration::ZERO,
                Duration::ZERO,
            ))
        };
        let away = || Err(StoreError::Unavailable("no connection".to_owned()));
        let mut watch = ClockWatch::default();
        assert_eq!(watch.record(vec![at(0), at(0), at(0)]).unwrap(), None);
        assert_eq!(
            watch.record(vec![away(), at(5_000), away()]).unwrap(),
            Some(5_000)
        );
        assert!(
            watch.record(vec![away(), at(5_000), at(0)]).is_err(),
            "no step was found"
        );
        let steps = watch
            .record(vec![at(-9_000), at(5_000), at(2_000)])
            .unwrap();
        assert_eq!(
            steps,
            Some(-9_000),
            "the largest step, also of a shard that did not answer before"
        );
    }
}
