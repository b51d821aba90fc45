//! Accepts facts, and the commands of operators about the standing of an address. Knows no adapter.

use std::mem;
use std::time::Duration;

use domain::bounce::Warning;
use domain::destination::Destination;
use domain::evidence::OPERATOR;
use domain::fact::{Fact, FactKind};
use domain::job::JobId;
use domain::standing::StandingRecord;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use store::error::StoreError;
use store::facts::{FactAnswer, FactOrCommand, ReportedFact};
use tokio::time::{Instant, sleep};

use super::handle::Accept;

/// How long to wait between two checks whether a worker has stopped. A worker takes a second at
/// most to stop.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Suppressed addresses that a worker may still be sending to, with their destinations. There are
/// hardly any: a worker must have leased the job of the address at the moment of the suppression.
pub type StillSentTo = Vec<(JobId, Destination)>;

/// The answer to one fact.
#[derive(Clone, Debug)]
pub struct FactAnswered {
    /// The answer of the store.
    pub answer: FactAnswer,
    /// The id of the address's job, whether or not the address has a job.
    pub job: String,
    /// What could not be used of the fact.
    pub warnings: Vec<Warning>,
}

impl Accept {
    /// Accepts facts. Returns one answer for each, in the order given. When this returns, Redis has
    /// them, and no worker is sending to an address that they suppress.
    ///
    /// # Errors
    /// If the store fails; the call may then be repeated. [`StoreError::UnderWay`] if a worker has
    /// not stopped in time; the address is suppressed all the same.
    pub async fn record_facts_and_wait(
        &self,
        facts: Vec<Fact>,
    ) -> Result<Vec<FactAnswered>, StoreError> {
        let (answered, still_sent_to) = self.record_facts(facts).await?;
        self.wait_for_workers(still_sent_to).await?;
        Ok(answered)
    }

    /// Accepts facts like [`Self::record_facts_and_wait`], but does not wait for workers. A worker
    /// that is sending at this moment may continue until it learns of the suppression. Also returns
    /// the suppressed addresses that a worker may still be sending to.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn record_facts(
        &self,
        mut facts: Vec<Fact>,
    ) -> Result<(Vec<FactAnswered>, StillSentTo), StoreError> {
        let warnings: Vec<_> = facts
            .iter_mut()
            .map(|fact| mem::take(&mut fact.warnings))
            .collect();
        let changes: Vec<(JobId, FactOrCommand)> = facts
            .iter()
            .map(|fact| (fact.job_id(), FactOrCommand::Fact(fact.kind)))
            .collect();
        let destinations = self.destinations(&changes).await?;
        let reported: Vec<ReportedFact> = changes
            .into_iter()
            .zip(facts)
            .zip(destinations)
            .map(|(((job, what), fact), destination)| {
                let Fact {
                    occurred_at,
                    message_id,
                    ..
                } = fact;
                ReportedFact {
                    job,
                    destination,
                    what,
                    occurred_at,
                    message_id,
                    source: self.source,
                    note: None,
                }
            })
            .collect();
        let answers = self.store.record_facts(&reported).await?.into_iter();
        let answered = reported
            .iter()
            .zip(answers)
            .zip(warnings)
            .map(|((fact, answer), warnings)| FactAnswered {
                answer,
                job: fact.job.key(),
                warnings,
            })
            .collect();
        Ok((answered, self.still_sent_to(reported).await?))
    }

    /// Applies an operator's command about one address. `note` is what the operator wrote as the
    /// reason; only a suppression keeps it.
    ///
    /// # Errors
    /// The same as those of [`Self::record_facts_and_wait`].
    pub async fn apply_operator_command(
        &self,
        job: JobId,
        command: FactOrCommand,
        note: Option<String>,
    ) -> Result<FactAnswer, StoreError> {
        let changes = [(job, command)];
        let destination = self.destinations(&changes).await?.remove(0);
        let [(job, what)] = changes;
        let reported = vec![ReportedFact {
            job,
            destination,
            what,
            occurred_at: None,
            message_id: None,
            source: OPERATOR,
            note,
        }];
        let answer = self.store.record_facts(&reported).await?.remove(0);
        let still_sent_to = self.still_sent_to(reported).await?;
        self.wait_for_workers(still_sent_to).await?;
        Ok(answer)
    }

    /// Waits until no worker is sending to these addresses any more.
    ///
    /// # Errors
    /// If the store fails. [`StoreError::UnderWay`] if a worker has not stopped within
    /// `scheduler.suppress_timeout`.
    pub async fn wait_for_workers(&self, mut still_sent_to: StillSentTo) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.suppress_timeout;
        while !still_sent_to.is_empty() {
            if Instant::now() >= deadline {
                return Err(StoreError::UnderWay);
            }
            sleep(CHECK_INTERVAL).await;
            self.retain_under_way(&mut still_sent_to).await?;
        }
        Ok(())
    }

    /// Returns those of the suppressed addresses that a worker may still be sending to.
    async fn still_sent_to(&self, reported: Vec<ReportedFact>) -> Result<StillSentTo, StoreError> {
        let mut still_sent_to = reported
            .into_iter()
            .filter(|fact| fact.what.suppresses())
            .map(|fact| (fact.job, fact.destination))
            .collect();
        self.retain_under_way(&mut still_sent_to).await?;
        Ok(still_sent_to)
    }

    async fn retain_under_way(&self, still_sent_to: &mut StillSentTo) -> Result<(), StoreError> {
        let addresses: Vec<_> = still_sent_to
            .iter()
            .map(|(job, destination)| (job, destination))
            .collect();
        let under_way = self.store.under_way(&addresses).await?;
        still_sent_to.retain(|(job, _)| under_way.contains(&job.key()));
        Ok(())
    }

    /// Returns the destination of each address. Suppressions and deliveries are remembered, so
    /// their domains are placed for good: a later request then finds the record. The other facts
    /// and commands change only existing records, so they place nothing.
    async fn destinations(
        &self,
        changes: &[(JobId, FactOrCommand)],
    ) -> Result<Vec<Destination>, StoreError> {
        let remembered = changes.iter().filter(|(_, change)| {
            change.suppresses() || *change == FactOrCommand::Fact(FactKind::Delivered)
        });
        let domains: Vec<&str> = remembered.map(|(job, _)| job.recipient.domain()).collect();
        self.placer.place(&domains).await?;
        let domains: Vec<&str> = changes
            .iter()
            .map(|(job, _)| job.recipient.domain())
            .collect();
        self.store.destinations(&domains).await
    }
}

impl FactAnswered {
    /// Returns the answer in the form of the API.
    pub fn to_wire(&self) -> Value {
        let mut wire = json!({"answer": "", "job": self.job});
        let what = match &self.answer {
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
        wire["answer"] = what.into();
        if !self.warnings.is_empty() {
            wire["warnings"] = json!(self.warnings);
        }
        wire
    }
}

impl Serialize for FactAnswered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_wire().serialize(serializer)
    }
}
