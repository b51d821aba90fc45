//! Decides when the log reports that a collector does not accept data. A long outage is reported
//! again and again, but at most once a minute.

use std::time::{Duration, Instant};

/// The shortest time between two reports of failures.
const PERIOD: Duration = Duration::from_secs(60);

/// The calls to a collector that have failed.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    /// How many calls in a row have failed.
    failures_in_a_row: u32,
    /// When a failure was last reported.
    reported_at: Option<Instant>,
    /// Whether a failure was reported, and no success after it.
    is_open: bool,
    /// How much had been lost at the last report of a success.
    lost_before: u64,
}

/// What is reported after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// It failed. Contains how much was lost since the last report of a success.
    Fails(u64),
    /// It succeeded after failures. Contains how much was lost meanwhile.
    Works(u64),
}

impl Outage {
    /// Notes the end of a call. `lost` is how much was lost since the process started. Returns what
    /// is to be reported.
    pub(crate) fn note(&mut self, has_failed: bool, lost: u64, now: Instant) -> Option<Report> {
        if !has_failed {
            self.failures_in_a_row = 0;
            return std::mem::take(&mut self.is_open).then(|| Report::Works(self.settle(lost)));
        }
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let is_due = |at| now.duration_since(at) >= PERIOD;
        self.reported_at.is_none_or(is_due).then(|| {
            self.reported_at = Some(now);
            self.is_open = true;
            Report::Fails(lost.saturating_sub(self.lost_before))
        })
    }

    /// Returns how many calls in a row have failed.
    pub(crate) fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    fn settle(&mut self, lost: u64) -> u64 {
        lost.saturating_sub(std::mem::replace(&mut self.lost_before, lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_outage_is_reported_each_minute_and_its_end_has_the_number_of_what_was_lost() {
        let mut outage = Outage::default();
        let start = Instant::now();
        let mut note = |has_failed, lost, seconds| {
            outage.note(has_failed, lost, start + Duration::from_secs(seconds))
        };
        assert_eq!(note(false, 0, 0), None);
        assert_eq!(note(true, 5, 1), Some(Report::Fails(5)));
        assert_eq!(note(true, 9, 20), None);
        assert_eq!(note(true, 30, 61), Some(Report::Fails(30)));
        assert_eq!(note(false, 31, 70), Some(Report::Works(31)));
        assert_eq!(note(false, 31, 71), None);
        assert_eq!(
            note(true, 32, 72),
            None,
            "a collector that comes and goes is reported once"
        );
        assert_eq!(note(false, 32, 73), None);
        assert_eq!(note(true, 40, 130), Some(Report::Fails(9)));
        assert_eq!(outage.failures_in_a_row(), 1);
    }
}
