//! The one door for bounces: policy judges each, and the store takes the batch.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use shared::bounce::Bounce;
use shared::event::{Event, EventKind};
use shared::job::Head;
use shared::outcome::Outcome;
use shared::placement::Destination;
use shared::policy::{Case, Table, Verdict, decide};
use shared::standing::StandingRecord;
use shared::store::schedule::{Answer, Arrival, Purpose};
use shared::store::{Store, StoreError};

use crate::placement::Placer;

mod facts;
mod refute;

pub use facts::FactAnswered;

/// Judges bounces and hands them to the store.
#[derive(Clone, Debug)]
pub struct Accept {
    store: Store,
    table: Arc<Table>,
    placer: Placer,
}

/// What became of one bounce, as the API says it.
#[derive(Clone, Debug)]
pub struct Answered {
    /// What the store answered.
    pub answer: Answer,
    /// The job that it belongs to.
    pub job: String,
    /// The policy row that judged it.
    pub policy: String,
}

impl Accept {
    /// The door to this store, under this policy, with domains placed so.
    pub fn new(store: Store, table: Arc<Table>, placer: Placer) -> Self {
        Self { store, table, placer }
    }

    /// The policy in force.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Takes in bounces and answers each, in the order given. When it returns, Redis has them.
    ///
    /// # Errors
    /// Those of the store; the call may be made again, and what had been taken in is then a duplicate.
    pub async fn accept(&self, bounces: Vec<Bounce>) -> Result<Vec<Answered>, StoreError> {
        let domains: Vec<&str> = bounces.iter().map(|bounce| bounce.recipient.domain()).collect();
        let destinations = self.placer.place(&domains).await?;
        let placed = bounces.into_iter().zip(destinations);
        let arrivals: Vec<Arrival> = placed.map(|(bounce, destination)| self.judge(bounce, destination)).collect();
        let answers = self.refute(&arrivals, self.store.schedule(&arrivals).await?).await?;
        let answered = |(arrival, answer): (Arrival, Answer)| Answered {
            answer,
            job: arrival.job.key(),
            policy: arrival.head.policy,
        };
        Ok(arrivals.into_iter().zip(answers).map(answered).collect())
    }

    /// A bounce is the outcome of attempt 0, and is judged like any other.
    fn judge(&self, bounce: Bounce, destination: Destination) -> Arrival {
        let now = self.store.clock().now();
        let job = bounce.job_id();
        let id = job.key();
        let case = Case {
            job: &id,
            account: job.account.as_str(),
            stream: bounce.message.stream.as_deref(),
            destination: destination.as_str(),
            attempt: 0,
            created: now,
            delivered_there: None,
            confirm: Duration::ZERO,
        };
        let decision = decide(&case, &Outcome::Deferred(bounce.reply.clone()), &self.table, now);
        let purpose = match decision.verdict {
            Verdict::RetryAfter(delay) | Verdict::Hold(delay) => Purpose::Retry(delay),
            Verdict::Retire { standing, .. } => Purpose::Retire(standing),
            Verdict::DropMessage | Verdict::DropAll | Verdict::Close | Verdict::Confirm(_) => Purpose::Drop,
        };
        let policy = decision.row.map(|row| row.name.as_str()).unwrap_or_default();
        let mut event = Event::about(EventKind::JobScheduled, id.as_str(), &destination);
        event.attempt = Some(0);
        event.message = Some(bounce.message.id.clone());
        event.status = bounce.reply.status;
        event.policy = Some(policy.to_owned());
        event.reply = Some(bounce.reply.to_string());
        event.metadata = bounce.message.metadata.clone();
        let head = Head::new(destination, policy, &bounce.reply, bounce.message.bounced_at, now);
        Arrival { job, head, message: bounce.message, occurred_at: bounce.occurred_at, purpose, event }
    }
}

impl Answered {
    /// The answer as the API gives it.
    pub fn to_wire(&self) -> Value {
        let word = match &self.answer {
            Answer::Scheduled { .. } => "scheduled",
            Answer::Joined { .. } => "joined",
            Answer::Duplicate => "duplicate",
            Answer::Stale => "stale",
            Answer::Retired(_) => "retired",
            Answer::Dropped => "dropped",
            Answer::Deferred { .. } => "deferred",
            // It is judged before it gets here.
            Answer::Accepted(_) => "duplicate",
        };
        let mut wire = json!({"answer": word, "job": self.job});
        match &self.answer {
            Answer::Scheduled { due } => wire["due"] = json!(due),
            Answer::Joined { due } | Answer::Deferred { due } => wire["due"] = json!(due),
            Answer::Retired(StandingRecord { standing, since, until, reason, .. }) => {
                wire["standing"] = json!(standing);
                wire["since"] = json!(since);
                wire["until"] = json!(until);
                wire["reason"] = json!(reason);
            }
            Answer::Duplicate | Answer::Stale | Answer::Dropped | Answer::Accepted(_) => {}
        }
        wire["policy"] = json!(self.policy);
        wire
    }
}
