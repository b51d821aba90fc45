//! Refuting: a bounce of a message that a relay had accepted arrives while the message's job waits
//! for confirmation.

use domain::clock::Timestamp;
use domain::event::EventLines;
use domain::job::{End, Job};
use domain::pace::Feedback;
use domain::standing::StandingRecord;
use domain::tally::Tally;

use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;
use crate::scripts::{REFUTE, ms};
use crate::settle::retire_argument;

/// What a bounce makes of a job that waits for confirmation.
#[derive(Clone, Debug)]
pub struct Refutation<'a> {
    /// The job that the decision was made for.
    pub seen: &'a Job,
    /// Its record, as [`crate::schedule::AcceptedJob`] has it.
    pub record: &'a str,
    /// What becomes of it.
    pub end: End,
    /// How the failure of the attempt is counted.
    pub tally: Tally,
    /// What the failure means for the destination. [`Feedback::Good`] changes nothing: it was
    /// reported when the message was accepted.
    pub feedback: Feedback,
    /// The serial of the lease that the attempt was made under.
    pub serial: u64,
    /// What happened, in order.
    pub events: EventLines,
}

/// The result of a refutation.
#[derive(Clone, Debug, PartialEq)]
pub enum Refuted {
    /// The job waits again; none: it is in quarantine.
    Waits(Option<Timestamp>),
    /// It has ended, and the address stays as it was.
    Ended,
    /// The address has left the active list.
    Retired(StandingRecord),
    /// The job has changed since the decision: nothing changed.
    Changed,
    /// A worker has the job: nothing changed.
    Leased,
}

impl Store {
    /// Continues a job after a bounce, and reports the failure to its destination's pace. Atomic.
    /// It takes effect once, because the job's record is another one afterwards.
    pub async fn refute(&self, refutation: &Refutation<'_>) -> Result<Refuted, StoreError> {
        let Refutation {
            seen,
            record,
            end,
            tally,
            feedback,
            serial,
            events,
        } = refutation;
        let destination = &seen.head.destination;
        let shard = destination.shard(self.shards());
        let (op, argument, new_record) = match end {
            End::Retry { job, delay } => ("retry", ms(*delay).to_string(), job.record()),
            End::Close => ("close", String::new(), String::new()),
            End::Retire {
                standing,
                policy,
                host_down,
                evidence,
            } => (
                "retire",
                retire_argument(*standing, policy, *host_down, evidence, events),
                String::new(),
            ),
        };
        let mut call = self.call(&REFUTE, shard);
        call.arg("id", seen.id.key())
            .arg("destination", destination.as_str())
            .arg("seen", *record)
            .arg("op", op)
            .arg("argument", argument)
            .arg("record", new_record)
            .arg("its_events", events.as_str())
            .arg("tally", tally.to_string())
            .arg("mark", feedback.mark())
            .arg("serial", *serial);
        let barrier = self.keys.shard(shard).barrier();
        let (_, letter, Text(detail), changes): (i64, String, Text, Vec<Text>) =
            self.connections.durable_script(&call, &barrier).await?;
        self.changes.note_changes(&changes);
        let missing_detail =
            || StoreError::Refused(format!("refute answered {letter} without its detail"));
        Ok(match letter.as_str() {
            "w" => Refuted::Waits(Some(Timestamp::from_ms(
                detail.parse().map_err(|_| missing_detail())?,
            ))),
            "q" => Refuted::Waits(None),
            "x" => Refuted::Ended,
            "r" => {
                let record = StandingRecord::from_store(&detail);
                self.changes
                    .note_standing(&seen.id.key(), destination, record.standing);
                Refuted::Retired(record)
            }
            "c" => Refuted::Changed,
            "l" => Refuted::Leased,
            _ => return Err(missing_detail()),
        })
    }
}
