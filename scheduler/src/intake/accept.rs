//! The one door for bounces: policy judges each, and the store takes the batch.

use std::sync::Arc;
use std::time::Duration;

use domain::bounce::Bounce;
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::job::{Head, JobId};
use domain::standing::StandingRecord;
use policy::decide::{Case, Verdict};
use policy::rulings::Rulings;
use policy::table::Table;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use store::error::StoreError;
use store::handle::Store;
use store::schedule::{Answer, Arrival, Purpose};

use crate::placement::Placer;

mod facts;
mod refute;

pub use facts::{FactAnswered, SentTo};

/// How long to wait for workers, where nothing else is said.
const SUPPRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// Judges bounces and hands them to the store.
#[derive(Clone, Debug)]
pub struct Accept {
    store: Store,
    table: Arc<Table>,
    placer: Placer,
    suppress_timeout: Duration,
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
        Self {
            store,
            table,
            placer,
            suppress_timeout: SUPPRESS_TIMEOUT,
        }
    }

    /// The same, which waits so long for workers to stop where an address is suppressed under their
    /// hands.
    #[must_use]
    pub fn with_suppress_timeout(self, suppress_timeout: Duration) -> Self {
        Self {
            suppress_timeout,
            ..self
        }
    }

    /// The policy in force.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Takes in bounces and answers each, in the order given. When it returns, Redis has them.
    ///
    /// # Errors
    /// Those of the store; the call may be made again, and what had been taken in is then a
    /// duplicate.
    pub async fn accept(&self, bounces: Vec<Bounce>) -> Result<Vec<Answered>, StoreError> {
        let domains: Vec<&str> = bounces
            .iter()
            .map(|bounce| bounce.recipient.domain())
            .collect();
        let destinations = self.placer.place(&domains).await?;
        let now = self.store.clock().now();
        let mut rulings = Rulings::new(&self.table);
        let placed = bounces.into_iter().zip(destinations);
        let arrivals: Vec<Arrival> = placed
            .map(|(bounce, destination)| judge(bounce, destination, &mut rulings, now))
            .collect();
        drop(rulings);
        let answers = self
            .refute(&arrivals, self.store.schedule(&arrivals).await?)
            .await?;
        let answered = |(arrival, answer): (Arrival, Answer)| Answered {
            answer,
            job: arrival.job.key(),
            policy: arrival.head.policy,
        };
        Ok(arrivals.into_iter().zip(answers).map(answered).collect())
    }
}

/// A bounce is the outcome of attempt 0, and is judged like any other.
fn judge(
    bounce: Bounce,
    destination: Destination,
    rulings: &mut Rulings<'_>,
    now: Timestamp,
) -> Arrival {
    let Bounce {
        account,
        recipient,
        reply,
        occurred_at,
        message,
    } = bounce;
    let job = JobId { account, recipient };
    let id = job.key();
    let case = Case {
        job: &id,
        account: job.account.as_str(),
        stream: message.stream.as_deref(),
        destination: destination.as_str(),
        attempt: 0,
        created: now,
        delivered_there: None,
        confirm: Duration::ZERO,
    };
    let (verdict, row) = rulings.judge(&case, &reply, now);
    let purpose = match verdict {
        Verdict::RetryAfter(delay) | Verdict::Hold(delay) => Purpose::Retry(delay),
        Verdict::Retire { standing, .. } => Purpose::Retire(standing),
        Verdict::DropMessage | Verdict::DropAll | Verdict::Close | Verdict::Confirm(_) => {
            Purpose::Drop
        }
    };
    let head = Head::new(destination, &row.name, &reply, message.bounced_at, now);
    Arrival {
        job,
        head,
        message,
        occurred_at,
        purpose,
        reply,
    }
}

impl Answered {
    /// The answer as the API gives it.
    pub fn to_wire(&self) -> Value {
        serde_json::to_value(self).expect("texts and instants always serialize")
    }
}

/// As the API gives it.
impl Serialize for Answered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
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
        let mut wire = serializer.serialize_map(None)?;
        wire.serialize_entry("answer", word)?;
        wire.serialize_entry("job", &self.job)?;
        match &self.answer {
            Answer::Scheduled { due } => wire.serialize_entry("due", due)?,
            Answer::Joined { due } | Answer::Deferred { due } => {
                wire.serialize_entry("due", due)?;
            }
            Answer::Retired(StandingRecord {
                standing,
                since,
                until,
                reason,
                ..
            }) => {
                wire.serialize_entry("standing", standing)?;
                wire.serialize_entry("since", since)?;
                wire.serialize_entry("until", until)?;
                wire.serialize_entry("reason", reason)?;
            }
            Answer::Duplicate | Answer::Stale | Answer::Dropped | Answer::Accepted(_) => {}
        }
        wire.serialize_entry("policy", &self.policy)?;
        wire.end()
    }
}
