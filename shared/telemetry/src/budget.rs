//! Bounds what waits to be sent to a collector. What does not fit is dropped and counted, so a
//! collector that is slow, hangs or is gone never slows this process down.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// The pause after a call that failed. It doubles with each further failure.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest pause after a call that failed. Meanwhile the queue fills, and what does not fit is
/// dropped, which costs less than to send it to a collector that does not accept it.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How many items wait, and how many were lost.
#[derive(Debug)]
pub(crate) struct Budget {
    waiting: AtomicUsize,
    max: usize,
    dropped: AtomicU64,
    failed: AtomicU64,
    /// How many calls in a row the collector did not accept.
    failures: AtomicU32,
    /// Whether the process ends. Then there are no pauses.
    is_ending: watch::Sender<bool>,
}

/// What was not delivered to the collector since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Items that did not fit.
    pub dropped: u64,
    /// Items that the collector did not accept.
    pub failed: u64,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            waiting: AtomicUsize::new(0),
            max,
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            is_ending: watch::Sender::new(false),
        })
    }

    /// Takes room for one item. Returns false if there is none; the item then counts as dropped.
    pub(crate) fn take(&self) -> bool {
        let has_room = self.waiting.fetch_add(1, Ordering::Relaxed) < self.max;
        if !has_room {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        has_room
    }

    /// Gives the room of items back that were sent, or could not be. Logs when that begins to fail,
    /// and when it succeeds again. Returns after a pause if it failed.
    pub(crate) async fn give_back<T, E>(&self, items: usize, result: Result<T, E>)
    where
        E: fmt::Display,
    {
        self.waiting.fetch_sub(items, Ordering::Relaxed);
        // Calls are made one after the other, so nothing is counted in between.
        let before = self.failures.load(Ordering::Relaxed);
        let failures = match result {
            Ok(_) => 0,
            Err(_) => before.saturating_add(1),
        };
        self.failures.store(failures, Ordering::Relaxed);
        match result {
            Err(why) => {
                self.refused(items as u64);
                if before == 0 {
                    tracing::warn!(
                        %why,
                        "the collector of telemetry does not accept what it is sent; that is lost"
                    );
                }
            }
            Ok(_) if before > 0 => tracing::info!("the collector of telemetry accepts again"),
            Ok(_) => {}
        }
        if let Some(pause) = pause_after(failures) {
            let mut is_ending = self.is_ending.subscribe();
            let _ = timeout(pause, is_ending.wait_for(|is_ending| *is_ending)).await;
        }
    }

    /// Counts items that were sent, and that the collector did not accept.
    pub(crate) fn refused(&self, items: u64) {
        self.failed.fetch_add(items, Ordering::Relaxed);
    }

    /// Ends the pause that there may be, and all later ones. The process is about to end.
    pub(crate) fn end_pauses(&self) {
        self.is_ending.send_replace(true);
    }

    /// Returns what was lost until now.
    pub(crate) fn lost(&self) -> Lost {
        Lost {
            dropped: self.dropped.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// Returns what was lost if nothing more is sent.
    pub(crate) fn lost_in_the_end(&self) -> Lost {
        let mut lost = self.lost();
        lost.dropped += self.waiting.load(Ordering::Relaxed) as u64;
        lost
    }
}

/// Returns the pause after this many calls in a row have failed.
fn pause_after(failures: u32) -> Option<Duration> {
    let doublings = failures.checked_sub(1)?;
    let pause = PAUSE.saturating_mul(2_u32.saturating_pow(doublings));
    Some(pause.min(PAUSE_MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    type Sent = Result<(), &'static str>;

    #[test]
    fn the_pause_doubles_with_each_failure_up_to_its_limit() {
        assert_eq!(pause_after(0), None);
        let ms =
            [1, 2, 3, 7, 8, u32::MAX].map(|failures| pause_after(failures).unwrap().as_millis());
        assert_eq!(ms, [100, 200, 400, 6_400, 10_000, 10_000]);
    }

    #[tokio::test]
    async fn a_failed_call_is_followed_by_a_pause_unless_the_process_ends() {
        let budget = Budget::new(9);
        let took = async |sent: Sent| {
            let began = Instant::now();
            budget.give_back(0, sent).await;
            began.elapsed()
        };
        assert!(took(Err("refused")).await >= PAUSE);
        assert!(took(Err("refused")).await >= 2 * PAUSE);
        let _ = took(Ok(())).await;
        assert_eq!(budget.failures.load(Ordering::Relaxed), 0);
        budget.failures.store(30, Ordering::Relaxed);
        budget.end_pauses();
        assert!(took(Err("refused")).await < PAUSE_MAX / 2);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_counted() {
        let budget = Budget::new(2);
        assert_eq!(
            [budget.take(), budget.take(), budget.take()],
            [true, true, false]
        );
        budget.give_back(1, Err::<(), _>("refused")).await;
        assert!(budget.take(), "there is room again");
        budget.give_back(1, Ok::<_, String>(())).await;
        let lost = Lost {
            dropped: 1,
            failed: 1,
        };
        assert_eq!(budget.lost(), lost);
        let in_the_end = Lost {
            dropped: 2,
            failed: 1,
        };
        assert_eq!(budget.lost_in_the_end(), in_the_end);
    }
}
