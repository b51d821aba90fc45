//! Accepts bounces: the policy judges each one, and the store records the batch. Every adapter goes
//! through here. Knows no adapter.

use std::mem;
use std::time::Duration;

use domain::bounce::{Bounce, Warning};
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::job::{Head, JobId};
use domain::standing::StandingRecord;
use policy::decide::{AttemptFacts, Verdict};
use policy::rulings::RowCache;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use store::error::StoreError;
use store::schedule::{Answer, Arrival, Purpose};
use telemetry::spans::{Arriving, SendSpan};

mod facts;
mod handle;
mod missing_content;
mod refute;

pub use facts::{FactAnswered, StillSentTo};
pub use handle::Accept;
pub use missing_content::ContentNeeds;

/// The answer to one bounce.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The answer of the store.
    pub answer: Answer,
    /// The job that the bounce belongs to.
    pub job: String,
    /// The policy row that judged the bounce.
    pub policy: String,
    /// What could not be used of the bounce.
    pub warnings: Vec<Warning>,
}

impl Accept {
    /// Accepts bounces. Returns one answer for each, in the order given. When this returns, Redis
    /// has them.
    ///
    /// # Errors
    /// If the store fails. The call may then be repeated: a bounce that was accepted before is
    /// answered as a duplicate.
    pub async fn accept(&self, mut bounces: Vec<Bounce>) -> Result<Vec<Answered>, StoreError> {
        let mut warnings: Vec<_> = bounces
            .iter_mut()
            .map(|bounce| mem::take(&mut bounce.warnings))
            .collect();
        let domains: Vec<&str> = bounces
            .iter()
            .map(|bounce| bounce.recipient.domain())
            .collect();
        let destinations = self.placer.place(&domains).await?;
        let now = self.store.clock().now();
        let mut rulings = RowCache::new(&self.table);
        let placed = bounces.into_iter().zip(destinations);
        let mut arrivals: Vec<Arrival> = placed
            .map(|(bounce, destination)| judge(bounce, destination, &mut rulings, self.source, now))
            .collect();
        drop(rulings);
        let spans = self.start_spans(&mut arrivals);
        let scheduled = async {
            let answers = self.store.schedule(&arrivals).await?;
            self.refute_all(&arrivals, answers).await
        };
        let answers = match scheduled.await {
            Ok(answers) => answers,
            Err(err) => {
                spans.into_iter().for_each(SendSpan::fail);
                return Err(err);
            }
        };
        for ((arrival, answer), warnings) in arrivals.iter().zip(&answers).zip(&mut warnings) {
            warnings.extend(self.content_needs.warning(&arrival.message, answer));
            let metrics = self.store.metrics();
            metrics.bounce(word(answer), self.source, &arrival.reply);
        }
        for (span, answer) in spans.into_iter().zip(&answers) {
            span.end(word(answer));
        }
        let answered = arrivals.into_iter().zip(answers).zip(warnings);
        Ok(answered
            .map(|((arrival, answer), warnings)| Answered {
                answer,
                job: arrival.job.key(),
                policy: arrival.head.policy,
                warnings,
            })
            .collect())
    }

    /// Starts a span for each bounce, and puts it into the message in place of the platform's. If
    /// nothing is traced, the messages keep the platform's.
    fn start_spans(&self, arrivals: &mut [Arrival]) -> Vec<SendSpan> {
        if self.tracing.is_off() {
            return Vec::new();
        }
        let start = |arrival: &mut Arrival| {
            let span = self.tracing.send(&Arriving {
                job: &arrival.job.key(),
                destination: arrival.head.destination.as_str(),
                message: &arrival.message.id,
                traceparent: arrival.message.traceparent.as_deref(),
            });
            if let Some(own) = span.traceparent() {
                arrival.message.traceparent = Some(own);
            }
            span
        };
        arrivals.iter_mut().map(start).collect()
    }
}

/// Judges a bounce. It is the outcome of attempt 0, and is judged like that of any other attempt.
fn judge(
    bounce: Bounce,
    destination: Destination,
    rulings: &mut RowCache<'_>,
    source: &'static str,
    now: Timestamp,
) -> Arrival {
    let Bounce {
        account,
        recipient,
        reply,
        occurred_at,
        message,
        warnings: _,
    } = bounce;
    let job = JobId { account, recipient };
    let id = job.key();
    let facts = AttemptFacts {
        job: &id,
        account: job.account.as_str(),
        stream: message.stream.as_deref(),
        destination: destination.as_str(),
        attempt: 0,
        created: now,
        last_delivery_there: None,
        confirm: Duration::ZERO,
    };
    let (verdict, row) = rulings.judge(&facts, &reply, now);
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
        source,
    }
}

impl Answered {
    /// Returns the answer in the form of the API.
    pub fn to_wire(&self) -> Value {
        serde_json::to_value(self).expect("texts and instants always serialize")
    }
}

/// Returns the word of the API for an answer.
fn word(answer: &Answer) -> &'static str {
    match answer {
        Answer::Scheduled { .. } => "scheduled",
        Answer::Joined { .. } => "joined",
        Answer::Duplicate => "duplicate",
        Answer::Stale => "stale",
        Answer::Retired(_) => "retired",
        Answer::Dropped => "dropped",
        Answer::Deferred { .. } => "deferred",
        // `refute_all` has replaced this answer by another.
        Answer::Accepted(_) => "duplicate",
    }
}

/// Writes the answer in the form of the API.
impl Serialize for Answered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut wire = serializer.serialize_map(None)?;
        wire.serialize_entry("answer", word(&self.answer))?;
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
        if !self.warnings.is_empty() {
            wire.serialize_entry("warnings", &self.warnings)?;
        }
        wire.end()
    }
}
