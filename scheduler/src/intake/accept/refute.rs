//! Bounces of messages that a relay has accepted. Such a bounce means that the attempt has failed
//! after all: the policy judges it as a failed attempt, and the job continues from there. Knows no
//! adapter.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::Timestamp;
use domain::event::{DropReason, Event, EventKind, EventLines};
use domain::job::{Acceptance, End, Job, Message};
use domain::outcome::Outcome;
use domain::pace::Feedback;
use domain::tally::{Tally, TallyResult};
use policy::decide::{AttemptFacts, Decision, Verdict, decide};
use policy::lifecycle::{self, Conclusion, Origin, Retirement};
use store::error::StoreError;
use store::refute::{Refutation, Refuted};
use store::schedule::{AcceptedJob, Answer, Arrival};

use super::handle::Accept;

/// How often a bounce is judged at most. It is judged again if its job changed meanwhile.
const TRIES: u32 = 4;

/// A job to which the policy's decision about a bounce is being applied, and the events so far.
struct Refuting<'a> {
    job: Job,
    message: Message,
    acceptance: Acceptance,
    decision: &'a Decision<'a>,
    id: String,
    events: EventLines,
    /// The name of the token of the client that reported the bounce.
    by: Option<Arc<str>>,
    /// The current time by the clock of Redis. Accepted messages wait until instants of this clock.
    redis_now: Timestamp,
    /// The current time by the clock of this machine.
    now: Timestamp,
    /// Where the bounce comes from.
    origin: Origin<'a>,
}

impl Accept {
    /// Replaces each [`Answer::Accepted`] by the answer that the policy decides. The other answers
    /// stay as they are.
    pub(super) async fn refute_all(
        &self,
        arrivals: &[Arrival],
        mut answers: Vec<Answer>,
    ) -> Result<Vec<Answer>, StoreError> {
        for (arrival, answer) in arrivals.iter().zip(&mut answers) {
            for _ in 0..TRIES {
                let Answer::Accepted(accepted) = answer else {
                    break;
                };
                *answer = match self.refute_one(arrival, accepted).await? {
                    Some(answer) => answer,
                    None => self
                        .store
                        .schedule(std::slice::from_ref(arrival))
                        .await?
                        .remove(0),
                };
            }
            if matches!(answer, Answer::Accepted(_)) {
                return Err(StoreError::Unavailable(
                    "the job kept changing while its bounce was judged".to_owned(),
                ));
            }
        }
        Ok(answers)
    }

    /// Returns the answer to one bounce, or `None` if the job has changed and the bounce must be
    /// judged again.
    async fn refute_one(
        &self,
        arrival: &Arrival,
        accepted: &AcceptedJob,
    ) -> Result<Option<Answer>, StoreError> {
        let now = self.store.clock().now();
        let AcceptedJob {
            job,
            record,
            now: redis_now,
        } = accepted;
        let found = job
            .messages
            .iter()
            .find(|message| message.id == arrival.message.id);
        let Some((message, acceptance)) =
            found.and_then(|message| Some((message, message.accepted?)))
        else {
            return Ok(Some(Answer::Duplicate));
        };
        // The report is older than the acceptance: it is a repeated report of an earlier attempt.
        if arrival.occurred_at.is_some_and(|at| at < acceptance.at) {
            return Ok(Some(Answer::Duplicate));
        }
        let id = job.id.key();
        let facts = AttemptFacts {
            job: &id,
            account: job.id.account.as_str(),
            stream: message.stream.as_deref(),
            destination: job.head.destination.as_str(),
            attempt: acceptance.attempt,
            created: job.head.created,
            last_delivery_there: None,
            confirm: Duration::ZERO,
        };
        let decision = decide(
            &facts,
            &Outcome::Deferred(arrival.reply.clone()),
            self.table(),
            now,
        );
        let (message, job) = (message.clone(), job.clone());
        let refuting = Refuting {
            job,
            message,
            acceptance,
            decision: &decision,
            id,
            events: EventLines::default(),
            by: self.store.token().map(Arc::from),
            redis_now: *redis_now,
            now,
            origin: Origin {
                at: arrival.occurred_at.unwrap_or(now),
                source: arrival.source,
                remote_mta: arrival.message.remote_mta.as_deref(),
            },
        };
        let (end, events) = refuting.conclude();
        let dropped = matches!(decision.verdict, Verdict::DropMessage | Verdict::DropAll);
        let created = accepted.job.head.created;
        let tally = Tally::new(
            TallyResult::Refuted,
            decision.reply.status,
            acceptance.number(),
            created,
            now,
        );
        let feedback = decision
            .row
            .map_or(Feedback::Nothing, |row| row.scope.feedback());
        let serial = acceptance.serial;
        let refutation = Refutation {
            seen: &accepted.job,
            record,
            end,
            tally,
            feedback,
            serial,
            events,
        };
        Ok(Some(match self.store.refute(&refutation).await? {
            Refuted::Changed => return Ok(None),
            Refuted::Waits(_) | Refuted::Ended if dropped => Answer::Dropped,
            Refuted::Waits(due) => Answer::Deferred { due },
            Refuted::Ended => Answer::Dropped,
            Refuted::Retired(standing) => Answer::Retired(standing),
            // The time for a bounce is over, and a worker is confirming the delivery.
            Refuted::Leased if acceptance.until <= *redis_now => Answer::Stale,
            Refuted::Leased => {
                return Err(StoreError::Unavailable(
                    "the job of a bounce is under way; send the bounce again".to_owned(),
                ));
            }
        }))
    }
}

impl Refuting<'_> {
    /// Returns how the job ends or continues, and the events that report it.
    fn conclude(mut self) -> (End, EventLines) {
        let outcome = Outcome::Deferred(self.decision.reply.clone());
        match lifecycle::conclude(self.decision, &outcome, self.event(), self.origin) {
            Conclusion::Waits(delay, mut failed) => {
                failed.delay = Some(delay.as_millis().try_into().unwrap_or(u64::MAX));
                self.events.push(&failed);
                self.wait_again();
                (
                    End::Retry {
                        job: self.job,
                        delay,
                    },
                    self.events,
                )
            }
            Conclusion::Dropped(_) | Conclusion::Delivered(_) | Conclusion::Accepted(..) => {
                self.drop(
                    |message, bounced| message.id == bounced.id,
                    DropReason::GivenUp,
                );
                self.continue_job()
            }
            Conclusion::GivenUp(failed) => {
                self.events.push(&failed);
                self.drop(
                    |message, bounced| message.accepted.is_none() || message.id == bounced.id,
                    DropReason::GivenUp,
                );
                self.continue_job()
            }
            Conclusion::Retired(retirement) => {
                let Retirement {
                    failed,
                    retired,
                    end,
                } = *retirement;
                self.events.push(&failed);
                self.drop(|_, _| true, DropReason::Retired);
                self.events.push(&retired);
                (end, self.events)
            }
        }
    }

    /// Records that the attempt has failed after all. Its message waits again as before.
    fn wait_again(&mut self) {
        let number = self.acceptance.number();
        let head = &mut self.job.head;
        // Another message of the same attempt may have bounced before.
        let known = head.history.last().filter(|last| last.attempt == number);
        let known = known.and_then(|last| last.traceparent.clone());
        let span = head.last_span.take().or(known);
        lifecycle::record_failure(head, self.decision, number, self.now);
        if let Some(last) = head.history.last_mut() {
            last.traceparent = span;
        }
        for message in self
            .job
            .messages
            .iter_mut()
            .filter(|message| message.id == self.message.id)
        {
            message.accepted = None;
        }
    }

    /// Drops the messages for which `is_dropped` is true. It is called with a message of the job,
    /// and with the message that bounced.
    fn drop(&mut self, is_dropped: impl Fn(&Message, &Message) -> bool, reason: DropReason) {
        let (dropped, left): (Vec<Message>, Vec<Message>) = mem::take(&mut self.job.messages)
            .into_iter()
            .partition(|message| is_dropped(message, &self.message));
        self.job.messages = left;
        for message in dropped {
            let mut event = Event::about(
                EventKind::MessageDropped,
                self.id.as_str(),
                &self.job.head.destination,
            )
            .with_message(&message);
            event.attempt = Some(self.number_of(&message));
            event.reason = Some(reason.as_str().to_owned());
            if message.id == self.message.id {
                event.source = Some(self.origin.source.to_owned());
                event.remote_mta = self.origin.remote_mta.map(str::to_owned);
                event.status = self.decision.reply.status;
                event.reply = Some(self.decision.reply.to_string());
                event.policy = self.decision.row.map(|row| row.name.clone());
            }
            self.events.push(&event);
        }
    }

    /// Returns the number of the last attempt for a message of the job.
    fn number_of(&self, message: &Message) -> u32 {
        let accepted = message.accepted.map(|acceptance| acceptance.number());
        accepted.unwrap_or(self.job.head.attempt)
    }

    /// Continues the job with the messages that are left. If a relay has not accepted one of them,
    /// that one is the next probe, and is tried at once. Otherwise the job waits until the first
    /// acceptance ends. A job without messages closes.
    fn continue_job(mut self) -> (End, EventLines) {
        if self.job.messages.is_empty() {
            let mut closed = Event::about(
                EventKind::JobClosed,
                self.id.as_str(),
                &self.job.head.destination,
            );
            closed.attempt = Some(self.acceptance.number());
            self.events.push(&closed);
            return (End::Close, self.events);
        }
        let waits_until = |message: &Message| {
            message
                .accepted
                .map_or(self.redis_now, |acceptance| acceptance.until)
        };
        let first = self.job.messages.iter().map(waits_until).min();
        let delay = first.unwrap_or(self.redis_now).since(self.redis_now);
        (
            End::Retry {
                job: self.job,
                delay,
            },
            self.events,
        )
    }

    /// An event about the message that bounced.
    fn event(&self) -> Event {
        let kind = EventKind::AttemptDeferred;
        let mut event = Event::about(kind, self.id.as_str(), &self.job.head.destination)
            .with_message(&self.message);
        event.by.clone_from(&self.by);
        event.attempt = Some(self.acceptance.number());
        event.reply = Some(self.decision.reply.to_string());
        event.status = self.decision.reply.status;
        event.policy = self.decision.row.map(|row| row.name.clone());
        event
    }
}
