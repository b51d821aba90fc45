//! Taking in facts about addresses: signs of life, suppressions, and an operator's commands.

use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::fact::FactKind;
use domain::job::JobId;
use domain::standing::{Standing, StandingRecord};
use futures::future::try_join_all;

use crate::batch::BATCH_MAX;
use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;
use crate::scripts::FACTS;

/// The script's answer to a fact that has suppressed its address.
const NEWLY_SUPPRESSED: &str = "newly suppressed";

/// A fact on its way into the store.
#[derive(Clone, Debug)]
pub struct ReportedFact {
    /// The address, as the id of the job that it may have.
    pub job: JobId,
    /// The destination of its attempts.
    pub destination: Destination,
    /// The fact, or the operator's command.
    pub what: FactOrCommand,
    /// When it happened, if known.
    pub occurred_at: Option<Timestamp>,
    /// The message that it names, if any.
    pub message_id: Option<String>,
    /// The way by which it came in, such as `dsn`.
    pub source: &'static str,
    /// What an operator wrote as the reason of a command.
    pub note: Option<String>,
}

/// What is reported about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactOrCommand {
    /// A fact from outside.
    Fact(FactKind),
    /// An operator's command: no more mail.
    Suppress,
    /// An operator's command: it may get mail again, despite any earlier fact.
    Reinstate,
}

/// The result of a fact.
#[derive(Clone, Debug, PartialEq)]
pub enum FactAnswer {
    /// The address's job ended: all that waited has got through.
    Closed,
    /// The message that the fact names has got through. The other messages were tried lately, and
    /// keep their due time.
    Ended,
    /// What still waits in its job is due now, with all its attempts.
    Resumed {
        /// The instant of the call.
        due: Timestamp,
    },
    /// The address is active again.
    Reinstated,
    /// The address is suppressed, by this fact or an earlier one. Nothing waits for it any more.
    Suppressed(StandingRecord),
    /// It happened before what is known by now: nothing changed.
    Stale,
    /// There was nothing to change. A delivery is remembered in any case.
    Noted,
}

impl FactOrCommand {
    fn as_argument(self) -> String {
        match self {
            Self::Fact(kind) if kind.suppresses() => format!("suppress {}", kind.as_str()),
            Self::Fact(kind) => kind.as_str().to_owned(),
            Self::Suppress => "suppress operator".to_owned(),
            Self::Reinstate => "reinstate".to_owned(),
        }
    }

    /// Whether it takes an address off the active list.
    pub const fn suppresses(self) -> bool {
        match self {
            Self::Fact(kind) => kind.suppresses(),
            Self::Suppress => true,
            Self::Reinstate => false,
        }
    }
}

impl Store {
    /// Takes in facts. Returns the answer to each in the order given. Atomic per shard; a repeated
    /// call changes nothing more.
    ///
    /// If a job is leased when its address is suppressed, its lease is void from then on. Its
    /// worker learns this when it next extends the lease, and cannot settle the job.
    /// [`Store::under_way`] reports when the worker has stopped. An answer means that Redis has the
    /// fact to the configured durability.
    pub async fn record_facts(
        &self,
        facts: &[ReportedFact],
    ) -> Result<Vec<FactAnswer>, StoreError> {
        let mut answers = Vec::with_capacity(facts.len());
        // The batches run one after the other, because facts about one address have an order.
        for facts in facts.chunks(BATCH_MAX) {
            answers.extend(self.record_batch(facts).await?);
        }
        Ok(answers)
    }

    async fn record_batch(&self, facts: &[ReportedFact]) -> Result<Vec<FactAnswer>, StoreError> {
        let places: Vec<usize> = (0..facts.len()).collect();
        let batches = self.by_shard(&places, |place| {
            facts[*place].destination.shard(self.shards())
        });
        let calls = batches.into_iter().map(async |(shard, places)| {
            let mut call = self.call(&FACTS, shard);
            call.arg("by", self.by());
            for ReportedFact {
                job,
                destination,
                what,
                occurred_at,
                message_id,
                source,
                note,
            } in places.iter().map(|place| &facts[**place])
            {
                let occurred = occurred_at.map(|at| at.ms().to_string());
                let message = message_id
                    .as_ref()
                    .map(|id| serde_json::Value::from(id.as_str()).to_string());
                call.arg("id", job.key())
                    .arg("destination", destination.as_str())
                    .arg("what", what.as_argument())
                    .arg("occurred", occurred.unwrap_or_default())
                    .arg("message", message.unwrap_or_default())
                    .arg("source", *source)
                    .arg("note", note.clone().unwrap_or_default());
            }
            let barrier = self.keys.shard(shard).barrier();
            let mut reply: Vec<Text> = self.connections.durable_script(&call, &barrier).await?;
            // The first value is the instant, which is not needed here.
            if reply.len() != 2 + 2 * places.len() {
                return Err(StoreError::Refused("unexpected reply of facts".to_owned()));
            }
            self.history
                .note_entry(shard, &reply.pop().unwrap_or_default().0);
            let read = |(place, pair): (&&usize, &[Text])| {
                let standing = match &*pair[0].0 {
                    "reinstated" => Some(Standing::Active),
                    NEWLY_SUPPRESSED => Some(Standing::Suppressed),
                    _ => None,
                };
                if let Some(standing) = standing {
                    let ReportedFact {
                        job, destination, ..
                    } = &facts[**place];
                    self.changes
                        .note_standing(&job.key(), destination, standing);
                }
                Ok((**place, read_answer(&pair[0].0, &pair[1].0)?))
            };
            places
                .iter()
                .zip(reply[1..].chunks(2))
                .map(read)
                .collect::<Result<Vec<_>, _>>()
        });
        let mut answers: Vec<(usize, FactAnswer)> =
            try_join_all(calls).await?.into_iter().flatten().collect();
        answers.sort_unstable_by_key(|(place, _)| *place);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }
}

fn read_answer(what: &str, detail: &str) -> Result<FactAnswer, StoreError> {
    let missing_detail =
        || StoreError::Refused(format!("facts answered {what} without its detail"));
    Ok(match what {
        "closed" => FactAnswer::Closed,
        "ended" => FactAnswer::Ended,
        "resumed" => FactAnswer::Resumed {
            due: Timestamp::from_ms(detail.parse().map_err(|_| missing_detail())?),
        },
        "reinstated" => FactAnswer::Reinstated,
        "suppressed" | NEWLY_SUPPRESSED => {
            FactAnswer::Suppressed(StandingRecord::from_store(detail))
        }
        "stale" => FactAnswer::Stale,
        "noted" => FactAnswer::Noted,
        _ => {
            return Err(StoreError::Refused(format!(
                "unexpected answer {what} of facts"
            )));
        }
    })
}
