//! The formats of the lines that `redeliver submit` reads.

use chrono::FixedOffset;
use clap::ValueEnum;
use domain::clock::Clock;
use scheduler::intake::maillog::LogReader;
use scheduler::intake::maillog::kumomta::Kumomta;
use scheduler::intake::maillog::postfix::Postfix;
use system::clock::SystemClock;

/// The format of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One bounce per line, in the format of `POST /v1/bounces`, or one fact, in that of `POST
    /// /v1/facts`. A line with a field `type` is a fact
    Ndjson,
    /// KumoMTA's JSON log records: failures, deliveries after a failure, and complaints
    Kumomta,
    /// Postfix's log: failures, and deliveries after a failure
    Postfix,
}

impl Format {
    /// Returns what reads these lines, if they are lines of a log. `offset` is that of timestamps
    /// without one.
    pub(super) fn reader(self, offset: FixedOffset) -> Option<Box<dyn LogReader>> {
        match self {
            Self::Ndjson => None,
            Self::Kumomta => Some(Box::new(Kumomta::default())),
            Self::Postfix => Some(Box::new(Postfix::new(SystemClock.now(), offset))),
        }
    }
}
