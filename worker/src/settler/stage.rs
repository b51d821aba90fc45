//! The stage of each shard's report to the store. The settler's task and the worker's loop that
//! claims jobs both read it, so it is shared between them. Makes no calls to the store.
//!
//! ```text
//!          begin               fall_behind
//!   Idle ────────▶ UnderWay ◀───────────────▶ Behind
//!    ▲                │          catch_up
//!    └────────────────┘
//!            end
//! ```

use std::sync::atomic::{AtomicU8, Ordering};

/// The stage of one shard's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    /// No report is under way. Attempts that have ended can be reported at once.
    Idle,
    /// A report is under way. Attempts that end meanwhile are reported with the next one.
    UnderWay,
    /// The store did not answer the report, so it is repeated. Until the store answers, no jobs of
    /// this shard are claimed: their leases could lapse before their attempts are settled.
    Behind,
}

/// The stage of each shard.
pub(super) struct Stages(Box<[AtomicU8]>);

impl Stages {
    /// Returns the stages of this many shards, all idle.
    pub(super) fn new(shards: u16) -> Self {
        Self(
            (0..shards)
                .map(|_| AtomicU8::new(Stage::Idle as u8))
                .collect(),
        )
    }

    /// Returns the stage of a shard.
    pub(super) fn of(&self, shard: u16) -> Stage {
        match self.0[usize::from(shard)].load(Ordering::Relaxed) {
            stage if stage == Stage::Idle as u8 => Stage::Idle,
            stage if stage == Stage::UnderWay as u8 => Stage::UnderWay,
            _ => Stage::Behind,
        }
    }

    /// Begins a report. Returns false if the shard's last report has not ended yet.
    pub(super) fn begin(&self, shard: u16) -> bool {
        let is_idle = self.of(shard) == Stage::Idle;
        if is_idle {
            self.set(shard, Stage::UnderWay);
        }
        is_idle
    }

    /// Records that the store did not answer the report.
    pub(super) fn fall_behind(&self, shard: u16) {
        self.set(shard, Stage::Behind);
    }

    /// Records that the store has answered the whole report.
    pub(super) fn catch_up(&self, shard: u16) {
        self.set(shard, Stage::UnderWay);
    }

    /// Records that the settler knows that the report has ended.
    pub(super) fn end(&self, shard: u16) {
        self.set(shard, Stage::Idle);
    }

    fn set(&self, shard: u16, stage: Stage) {
        self.0[usize::from(shard)].store(stage as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_report_of_a_shard_is_under_way_at_a_time() {
        let stages = Stages::new(2);
        assert!(stages.begin(1));
        assert!(!stages.begin(1), "a report is under way");
        stages.fall_behind(1);
        assert!(!stages.begin(1), "the report is being repeated");
        assert_eq!(stages.of(1), Stage::Behind);
        stages.catch_up(1);
        assert_eq!(stages.of(1), Stage::UnderWay);
        stages.end(1);
        assert!(stages.begin(1));
        assert_eq!(stages.of(0), Stage::Idle, "another shard");
    }
}
