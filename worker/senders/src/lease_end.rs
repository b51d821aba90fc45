//! Until when a worker may send the mail of its leased jobs. A process that was suspended learns
//! here, without a call to Redis, that other workers may have its jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use domain::clock::Clock;
use system::limiter::admit_outage;

/// The end of one lease by the worker's own clock, never later than the end in Redis. Clones share
/// the same lease. The default never ends.
#[derive(Clone, Debug, Default)]
pub struct LeaseEnd(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    until_ms: AtomicU64,
    is_reported: AtomicBool,
}

impl LeaseEnd {
    /// Returns the end of a lease of this length. `asked_at` is when the lease was requested from
    /// Redis, a value of [`Clock::monotonic`].
    pub fn new(clock: Arc<dyn Clock>, asked_at: Duration, length: Duration) -> Self {
        let end = Self(Some(Arc::new(Inner {
            clock,
            until_ms: AtomicU64::default(),
            is_reported: AtomicBool::default(),
        })));
        end.extend(asked_at, length);
        end
    }

    /// Records that Redis extended the lease by `length`, counted from `asked_at`, a value of
    /// [`Clock::monotonic`]. The end never moves backwards.
    pub fn extend(&self, asked_at: Duration, length: Duration) {
        if let Some(inner) = &self.0 {
            let until_ms = (asked_at + length)
                .as_millis()
                .try_into()
                .unwrap_or(u64::MAX);
            inner.until_ms.fetch_max(until_ms, Ordering::Relaxed);
        }
    }

    /// Whether the lease is over, so that other workers may have the jobs. The first call that
    /// returns true logs a warning.
    pub fn is_over(&self) -> bool {
        let Some(inner) = &self.0 else { return false };
        let is_over = inner.clock.monotonic()
            >= Duration::from_millis(inner.until_ms.load(Ordering::Relaxed));
        if is_over
            && !inner.is_reported.swap(true, Ordering::Relaxed)
            && let Some(left_out) = admit_outage("leases that ended too soon")
        {
            tracing::warn!(
                left_out,
                "a lease ended before its mail was sent, because this process was suspended or \
                 Redis did not answer; this worker sends nothing more under that lease"
            );
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::clock::{ManualClock, Timestamp};

    #[test]
    fn a_lease_ends_by_the_time_that_has_passed_since_it_was_asked_for() {
        let second = Duration::from_secs(1);
        let clock = Arc::new(ManualClock::new(Timestamp::from_ms(90_000)));
        let asked_at = clock.monotonic();
        clock.advance(second);
        let end = LeaseEnd::new(clock.clone(), asked_at, 3 * second);
        clock.advance(second);
        assert!(!end.is_over());
        clock.set(Timestamp::default());
        assert!(
            !end.is_over(),
            "setting the clock back does not end the lease"
        );
        clock.advance(second);
        assert!(end.is_over());
        end.extend(2 * second, 3 * second);
        assert!(!end.is_over());
        end.extend(asked_at, 3 * second);
        assert!(!end.is_over(), "a late answer does not shorten the lease");
        assert!(!LeaseEnd::default().is_over());
    }
}
