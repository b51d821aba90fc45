//! Until when a worker may send the mail of its leased jobs. After a process was frozen or
//! suspended, this tells it without a call to Redis that other workers may have its jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use domain::clock::Clock;

/// The end of one lease, by the worker's own clock and never later than in Redis. Clones are of the
/// same lease. The default is an end that never comes.
#[derive(Clone, Debug, Default)]
pub struct LeaseEnd(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    until_ms: AtomicU64,
    is_reported: AtomicBool,
}

impl LeaseEnd {
    /// The end of a lease of this length that Redis was asked for at `asked_at`, by
    /// [`Clock::running`].
    pub fn new(clock: Arc<dyn Clock>, asked_at: Duration, length: Duration) -> Self {
        let end = Self(Some(Arc::new(Inner {
            clock,
            until_ms: AtomicU64::default(),
            is_reported: AtomicBool::default(),
        })));
        end.extend(asked_at, length);
        end
    }

    /// Redis has confirmed that the lease lasts for its length from when it was asked, by
    /// [`Clock::running`].
    pub fn extend(&self, asked_at: Duration, length: Duration) {
        if let Some(inner) = &self.0 {
            let until_ms = (asked_at + length)
                .as_millis()
                .try_into()
                .unwrap_or(u64::MAX);
            inner.until_ms.fetch_max(until_ms, Ordering::Relaxed);
        }
    }

    /// Whether it is over, so that other workers may have the jobs. The first to hear that logs it.
    pub fn is_over(&self) -> bool {
        let Some(inner) = &self.0 else { return false };
        let is_over =
            inner.clock.running() >= Duration::from_millis(inner.until_ms.load(Ordering::Relaxed));
        if is_over && !inner.is_reported.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a lease ended before its mail was sent: this process stood still, or Redis did not answer; nothing more of it \
                 is sent here"
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
        let asked_at = clock.running();
        clock.advance(second);
        let end = LeaseEnd::new(clock.clone(), asked_at, 3 * second);
        clock.advance(second);
        assert!(!end.is_over());
        clock.set(Timestamp::default());
        assert!(
            !end.is_over(),
            "the clock was set back, and no time has passed"
        );
        clock.advance(second);
        assert!(end.is_over());
        end.extend(2 * second, 3 * second);
        assert!(!end.is_over());
        end.extend(asked_at, 3 * second);
        assert!(
            !end.is_over(),
            "an answer that comes late takes nothing away"
        );
        assert!(!LeaseEnd::default().is_over());
    }
}
