//! Refuting: a bounce says that a message which a relay had accepted did not get through, while its
//! job waits for that.

use domain::clock::Timestamp;
use domain::event::EventLines;
use domain::job::Job;
use domain::pace::Feedback;
use domain::standing::StandingRecord;
use domain::tally::Tally;

use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;
use crate::scripts::{REFUTE, ms};
use crate::settle::{End, retire_argument};

/// What a bounce makes of a job that waits for confirmation.
#[derive(Clone, Debug)]
pub struct Refutation<'a> {
    /// The job as it was judged.
    pub seen: &'a Job,
    /// Its record, as it was answered.
    pub record: &'a str,
    /// What becomes of it.
    pub end: End,
    /// How it is counted that the attempt has turned out to have failed.
    pub tally: Tally,
    /// What that says about the destination. [`Feedback::Good`] is old news: it was said when the
    /// message was accepted.
    pub feedback: Feedback,
    /// The serial of the lease that the attempt was made under.
    pub serial: u64,
    /// What happened, in order.
    pub events: EventLines,
}

/// What became of a refutation.
#[derive(Clone, Debug, PartialEq)]
pub enum Refuted {
    /// The job waits again; none: it is in quarantine.
    Waits(Option<Timestamp>),
    /// It has ended, and the address stays as it was.
    Ended,
    /// The address has left the active list.
    Retired(StandingRecord),
    /// The job was not as it had been judged any more: nothing changed.
    Changed,
    /// A worker has it: nothing changed.
    Leased,
}

impl Store {
    /// Lets a job go on after a bounce, and its destination's pace hear of it. Atomic; it takes
    /// effect once, for the job is another after it.
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
                host_dead,
            } => (
                "retire",
                retire_argument(*standing, policy, *host_dead, events),
                String::new(),
            ),
        };
        let mut call = self.call(&REFUTE, shard);
        call.arg(seen.id.key())
            .arg(destination.as_str())
            .arg(*record)
            .arg(op)
            .arg(argument);
        call.arg(new_record)
            .arg(events.as_str())
            .arg(tally.to_string())
            .arg(feedback.mark())
            .arg(*serial);
        let barrier = self.keys.shard(shard).barrier();
        let (_, letter, Text(detail)): (i64, String, Text) =
            self.connections.durable_script(&call, &barrier).await?;
        let other_shape = || {
            StoreError::Refused(format!(
                "refute answered {letter} without what belongs to it"
            ))
        };
        Ok(match letter.as_str() {
            "w" => Refuted::Waits(Some(Timestamp::from_ms(
                detail.parse().map_err(|_| other_shape())?,
            ))),
            "q" => Refuted::Waits(None),
            "x" => Refuted::Ended,
            "r" => Refuted::Retired(StandingRecord::from_store(&detail)),
            "c" => Refuted::Changed,
            "l" => Refuted::Leased,
            _ => return Err(other_shape()),
        })
    }
}
