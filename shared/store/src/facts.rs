//! Taking facts about addresses in: signs of life, suppressions, and what an operator says of a
//! standing.

use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::fact::FactKind;
use domain::job::JobId;
use domain::standing::StandingRecord;
use futures::future::try_join_all;

use crate::batch::BATCH_MAX;
use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;
use crate::scripts::FACTS;

/// A fact on its way into the store.
#[derive(Clone, Debug)]
pub struct ReportedFact {
    /// The address, as the id of the job that it may have.
    pub job: JobId,
    /// Where its attempts go.
    pub destination: Destination,
    /// What is said of it.
    pub word: FactOrCommand,
    /// When it happened, where anybody knows.
    pub occurred_at: Option<Timestamp>,
    /// The message that it is about, where it is about one.
    pub message_id: Option<String>,
}

/// What is said of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactOrCommand {
    /// By somebody outside.
    Fact(FactKind),
    /// By an operator: no more mail.
    Suppress,
    /// By an operator: it may be mailed again, whatever was known.
    Reinstate,
}

/// What became of a fact.
#[derive(Clone, Debug, PartialEq)]
pub enum FactAnswer {
    /// The address's job ended: all that waited has got through.
    Closed,
    /// The message that it names has got through; what else waits was tried lately, and keeps its
    /// time.
    Ended,
    /// What still waits in its job is due now, with all attempts before it.
    Resumed {
        /// Now.
        due: Timestamp,
    },
    /// The address is active again.
    Reinstated,
    /// The address is suppressed, be it by this fact or from before; nothing waits for it any more.
    Suppressed(StandingRecord),
    /// It happened before what is known by now: nothing changed.
    Stale,
    /// There was nothing to change. A delivery is remembered all the same.
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
    /// Takes in facts, and answers each in the order given. Atomic per shard; a repeated call
    /// changes nothing more. A job that is leased while its address is suppressed has a void lease
    /// from then on: its worker hears of it when it next lengthens the lease, and cannot settle it;
    /// [`Store::under_way`] tells when it has stopped. An answer means that Redis has it to the
    /// configured durability.
    pub async fn record_facts(
        &self,
        facts: &[ReportedFact],
    ) -> Result<Vec<FactAnswer>, StoreError> {
        let mut answers = Vec::with_capacity(facts.len());
        // One batch after the other, for what is told of one address has an order.
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
            for ReportedFact {
                job,
                destination,
                word,
                occurred_at,
                message_id,
            } in places.iter().map(|place| &facts[**place])
            {
                let message = message_id
                    .as_ref()
                    .map(|id| serde_json::Value::from(id.as_str()).to_string());
                call.arg(job.key())
                    .arg(destination.as_str())
                    .arg(word.as_argument())
                    .arg(
                        occurred_at
                            .map(|at| at.ms().to_string())
                            .unwrap_or_default(),
                    )
                    .arg(message.unwrap_or_default());
            }
            let barrier = self.keys.shard(shard).barrier();
            let mut reply: Vec<Text> = self.connections.durable_script(&call, &barrier).await?;
            // The first is the instant, which nobody needs here.
            if reply.len() != 2 + 2 * places.len() {
                return Err(StoreError::Refused(
                    "facts answered in another shape".to_owned(),
                ));
            }
            self.history
                .note_entry(shard, &reply.pop().unwrap_or_default().0);
            let read = |(place, pair): (&&usize, &[Text])| {
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

fn read_answer(word: &str, detail: &str) -> Result<FactAnswer, StoreError> {
    let unread =
        || StoreError::Refused(format!("facts answered {word} without what belongs to it"));
    Ok(match word {
        "closed" => FactAnswer::Closed,
        "ended" => FactAnswer::Ended,
        "resumed" => FactAnswer::Resumed {
            due: Timestamp::from_ms(detail.parse().map_err(|_| unread())?),
        },
        "reinstated" => FactAnswer::Reinstated,
        "suppressed" => FactAnswer::Suppressed(StandingRecord::from_store(detail)),
        "stale" => FactAnswer::Stale,
        "noted" => FactAnswer::Noted,
        _ => return Err(StoreError::Refused(format!("facts answered {word}"))),
    })
}
