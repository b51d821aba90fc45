//! The door for facts, and for what operators say of an address's standing.

use std::time::Duration;

use domain::destination::Destination;
use domain::fact::{Fact, FactKind};
use domain::job::JobId;
use domain::standing::StandingRecord;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use store::error::StoreError;
use store::facts::{FactAnswer, FactOrCommand, ReportedFact};
use tokio::time::{Instant, sleep};

use super::Accept;

/// How long to wait before it is asked again whether a worker has stopped. It takes a second at
/// most.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Suppressed addresses that a worker may still be sending to, with where they are kept. Hardly
/// any: their jobs are leased.
pub type SentTo = Vec<(JobId, Destination)>;

/// What became of one fact, as the API says it.
#[derive(Clone, Debug)]
pub struct FactAnswered {
    /// What the store answered.
    pub answer: FactAnswer,
    /// The job that it is about, whether the address has one or not.
    pub job: String,
}

impl Accept {
    /// Takes in facts and answers each, in the order given. When it returns, Redis has them, and no
    /// worker sends anything to an address that they suppress.
    ///
    /// # Errors
    /// Those of the store; the call may be made again. [`StoreError::UnderWay`] where a worker has
    /// not stopped in time: the address is suppressed all the same.
    pub async fn tell(&self, facts: Vec<Fact>) -> Result<Vec<FactAnswered>, StoreError> {
        let (answered, sent_to) = self.record_facts(facts).await?;
        self.wait_for_workers(sent_to).await?;
        Ok(answered)
    }

    /// The same, but a worker that was sending at that moment may go on until it hears of it. Names
    /// the addresses, of those that are suppressed, for which that is so.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn record_facts(
        &self,
        facts: Vec<Fact>,
    ) -> Result<(Vec<FactAnswered>, SentTo), StoreError> {
        let words: Vec<(JobId, FactOrCommand)> = facts
            .iter()
            .map(|fact| (fact.job_id(), FactOrCommand::Fact(fact.kind)))
            .collect();
        let destinations = self.destinations(&words).await?;
        let told = words.into_iter().zip(facts).zip(destinations);
        let told: Vec<ReportedFact> = told
            .map(|(((job, word), fact), destination)| {
                let Fact {
                    occurred_at,
                    message_id,
                    ..
                } = fact;
                ReportedFact {
                    job,
                    destination,
                    word,
                    occurred_at,
                    message_id,
                }
            })
            .collect();
        let answers = self.store.record_facts(&told).await?.into_iter();
        let answered = told.iter().zip(answers).map(|(told, answer)| FactAnswered {
            answer,
            job: told.job.key(),
        });
        let answered = answered.collect();
        Ok((answered, self.still_sent_to(told).await?))
    }

    /// Does what an operator says of one address.
    ///
    /// # Errors
    /// As [`Self::tell`].
    pub async fn apply_operator_command(
        &self,
        job: JobId,
        word: FactOrCommand,
    ) -> Result<FactAnswer, StoreError> {
        let words = [(job, word)];
        let destination = self.destinations(&words).await?.remove(0);
        let [(job, word)] = words;
        let told = vec![ReportedFact {
            job,
            destination,
            word,
            occurred_at: None,
            message_id: None,
        }];
        let answer = self.store.record_facts(&told).await?.remove(0);
        let sent_to = self.still_sent_to(told).await?;
        self.wait_for_workers(sent_to).await?;
        Ok(answer)
    }

    /// Waits until no worker sends to these addresses any more.
    ///
    /// # Errors
    /// Those of the store; [`StoreError::UnderWay`] where a worker has not stopped within
    /// `scheduler.suppress_timeout`.
    pub async fn wait_for_workers(&self, mut sent_to: SentTo) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.suppress_timeout;
        while !sent_to.is_empty() {
            if Instant::now() >= deadline {
                return Err(StoreError::UnderWay);
            }
            sleep(ASK_AGAIN).await;
            self.keep_under_way(&mut sent_to).await?;
        }
        Ok(())
    }

    async fn still_sent_to(&self, told: Vec<ReportedFact>) -> Result<SentTo, StoreError> {
        let suppressed = told.into_iter().filter(|told| told.word.suppresses());
        let mut sent_to = suppressed
            .map(|told| (told.job, told.destination))
            .collect();
        self.keep_under_way(&mut sent_to).await?;
        Ok(sent_to)
    }

    async fn keep_under_way(&self, sent_to: &mut SentTo) -> Result<(), StoreError> {
        let asked: Vec<_> = sent_to
            .iter()
            .map(|(job, destination)| (job, destination))
            .collect();
        let under_way = self.store.under_way(&asked).await?;
        sent_to.retain(|(job, _)| under_way.contains(&job.key()));
        Ok(())
    }

    /// Where addresses are kept. A domain is placed for good where something will be remembered of
    /// an address there, a suppression or a delivery, so that whoever asks later finds it. The
    /// other words change only what is there already.
    async fn destinations(
        &self,
        words: &[(JobId, FactOrCommand)],
    ) -> Result<Vec<Destination>, StoreError> {
        let remembered = words.iter().filter(|(_, word)| {
            word.suppresses() || *word == FactOrCommand::Fact(FactKind::Delivered)
        });
        let domains: Vec<&str> = remembered.map(|(job, _)| job.recipient.domain()).collect();
        self.placer.place(&domains).await?;
        let domains: Vec<&str> = words
            .iter()
            .map(|(job, _)| job.recipient.domain())
            .collect();
        self.store.destinations(&domains).await
    }
}

impl FactAnswered {
    /// The answer as the API gives it.
    pub fn to_wire(&self) -> Value {
        let mut wire = json!({"answer": "", "job": self.job});
        let word = match &self.answer {
            FactAnswer::Closed => "closed",
            FactAnswer::Ended => "ended",
            FactAnswer::Resumed { due } => {
                wire["due"] = json!(due);
                "resumed"
            }
            FactAnswer::Reinstated => "reinstated",
            FactAnswer::Suppressed(StandingRecord {
                standing,
                since,
                reason,
                ..
            }) => {
                wire["standing"] = json!(standing);
                wire["since"] = json!(since);
                wire["reason"] = json!(reason);
                "suppressed"
            }
            FactAnswer::Stale => "stale",
            FactAnswer::Noted => "noted",
        };
        wire["answer"] = word.into();
        wire
    }
}

impl Serialize for FactAnswered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_wire().serialize(serializer)
    }
}
