//! Limits how many spans or log records wait to be sent to a collector. Items above the limit are
//! dropped and counted, so a collector that is slow, hangs or is gone never slows this process
//! down.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use crate::endpoint::Place;
use crate::failure::Failure;
use crate::outage::{Outage, Report};

/// The pause after a call that failed. It doubles with each further failure.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest pause after a call that failed. If the queue is full during the pause, new items are
/// dropped. That costs less than sending them to a collector that does not accept them.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Counts the items that wait, and those that were lost.
#[derive(Debug)]
pub(crate) struct Budget {
    waiting: AtomicUsize,
    /// How many items may wait.
    max: usize,
    dropped: AtomicU64,
    failed: AtomicU64,
    /// Where the items are sent, for the log.
    place: Option<Place>,
    outage: Mutex<Outage>,
    /// Whether the process is about to end. Then there are no pauses.
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
    /// `place` is where the items are sent. Without it, nothing is logged.
    pub(crate) fn of(max: usize, place: Option<Place>) -> Arc<Self> {
        Arc::new(Self {
            waiting: AtomicUsize::new(0),
            max,
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            place,
            outage: Mutex::default(),
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

    /// Gives back the room of items after the call that sent them, which had this result. Logs
    /// failures, and the first success after them. If the call failed, this returns only after a
    /// pause.
    pub(crate) async fn give_back(&self, items: usize, result: Result<(), Failure>) {
        self.waiting.fetch_sub(items, Ordering::Relaxed);
        if result.is_err() {
            self.refused(items as u64);
        }
        let Lost { dropped, failed } = self.lost();
        let (report, failures) = {
            let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
            let report = outage.note(result.is_err(), dropped + failed, Instant::now());
            (report, outage.failures_in_a_row())
        };
        if let (Some(report), Some(place)) = (report, &self.place) {
            log(report, place, result.err().as_ref());
        }
        if let Some(pause) = pause_after(failures) {
            let mut is_ending = self.is_ending.subscribe();
            let _ = timeout(pause, is_ending.wait_for(|is_ending| *is_ending)).await;
        }
    }

    /// Counts items that the collector did not accept.
    pub(crate) fn refused(&self, items: u64) {
        self.failed.fetch_add(items, Ordering::Relaxed);
    }

    /// Ends the current pause, if there is one, and makes no pauses from now on. Called when the
    /// process is about to end.
    pub(crate) fn end_pauses(&self) {
        self.is_ending.send_replace(true);
    }

    /// Returns how much was lost until now.
    pub(crate) fn lost(&self) -> Lost {
        Lost {
            dropped: self.dropped.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// Returns how much is lost if nothing more is sent. The items that still wait count as
    /// dropped.
    pub(crate) fn lost_in_the_end(&self) -> Lost {
        let mut lost = self.lost();
        lost.dropped += self.waiting.load(Ordering::Relaxed) as u64;
        lost
    }
}

/// Logs that a collector does not accept data, or does again.
fn log(report: Report, place: &Place, failure: Option<&Failure>) {
    let Place {
        signal, endpoint, ..
    } = place;
    match report {
        Report::Fails(lost) => {
            let cause = failure.map(|failure| failure.cause);
            let why = failure.map(|failure| failure.detail.as_str());
            tracing::warn!(
                signal,
                endpoint,
                cause,
                why,
                lost,
                "the collector of telemetry does not accept data; the data is lost"
            );
        }
        Report::Works(lost) => tracing::info!(
            signal,
            endpoint,
            lost,
            "the collector of telemetry accepts data again"
        ),
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
    use super::*;

    type Sent = Result<(), Failure>;

    fn refused() -> Sent {
        Err(Failure::answer("503"))
    }

    #[test]
    fn the_pause_doubles_with_each_failure_up_to_its_limit() {
        assert_eq!(pause_after(0), None);
        let ms =
            [1, 2, 3, 7, 8, u32::MAX].map(|failures| pause_after(failures).unwrap().as_millis());
        assert_eq!(ms, [100, 200, 400, 6_400, 10_000, 10_000]);
    }

    #[tokio::test]
    async fn a_failed_call_is_followed_by_a_pause_unless_the_process_ends() {
        let budget = Budget::of(9, None);
        let took = async |sent: Sent| {
            let began = Instant::now();
            budget.give_back(0, sent).await;
            began.elapsed()
        };
        assert!(took(refused()).await >= PAUSE);
        assert!(took(refused()).await >= 2 * PAUSE);
        assert!(took(Ok(())).await < PAUSE);
        for _ in 0..30 {
            let mut outage = budget.outage.lock().unwrap();
            outage.note(true, 0, Instant::now());
        }
        budget.end_pauses();
        assert!(took(refused()).await < PAUSE_MAX / 2);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_counted() {
        let budget = Budget::of(2, None);
        assert_eq!(
            [budget.take(), budget.take(), budget.take()],
            [true, true, false]
        );
        budget.give_back(1, refused()).await;
        assert!(budget.take(), "there is room again");
        budget.give_back(1, Ok(())).await;
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
