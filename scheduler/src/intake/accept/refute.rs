//! A bounce of a message that a relay has accepted is the failure of that attempt: policy judges it
//! as such, and the job goes on where it was.

use std::mem;
use std::time::Duration;

use domain::clock::Timestamp;
use domain::event::{DropReason, Event, EventKind, EventLines};
use domain::job::{Acceptance, Job, Message};
use domain::outcome::Outcome;
use domain::pace::Feedback;
use domain::tally::{Tally, TallyResult};
use policy::decide::{Case, Decision, Verdict, decide};
use serde_json::Map;
use store::error::StoreError;
use store::refute::{Refutation, Refuted};
use store::schedule::{AcceptedJob, Answer, Arrival};
use store::settle::End;

use super::Accept;

/// How often a bounce is judged again because its job had changed meanwhile.
const TRIES: u32 = 4;

/// The job as it becomes, while the bounce's consequences are drawn.
struct Refuting<'a> {
    job: Job,
    message: Message,
    acceptance: Acceptance,
    decision: &'a Decision<'a>,
    id: String,
    events: EventLines,
    /// Now, by the clock of Redis. What relays accepted waits until instants of this clock.
    by_redis: Timestamp,
    /// Now, by the clock of this machine.
    now: Timestamp,
}

impl Accept {
    /// Answers in the place of those that only policy can give.
    pub(super) async fn refute(
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
                    "a job changed while its bounce was judged".to_owned(),
                ));
            }
        }
        Ok(answers)
    }

    /// `None` where the job has changed and the bounce has to be looked at again.
    async fn refute_one(
        &self,
        arrival: &Arrival,
        accepted: &AcceptedJob,
    ) -> Result<Option<Answer>, StoreError> {
        let now = self.store.clock().now();
        let AcceptedJob {
            job,
            record,
            now: by_redis,
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
        // A report of a try before that one, come once more.
        if arrival.occurred_at.is_some_and(|at| at < acceptance.at) {
            return Ok(Some(Answer::Duplicate));
        }
        let id = job.id.key();
        let case = Case {
            job: &id,
            account: job.id.account.as_str(),
            stream: message.stream.as_deref(),
            destination: job.head.destination.as_str(),
            attempt: acceptance.attempt,
            created: job.head.created,
            delivered_there: None,
            confirm: Duration::ZERO,
        };
        let decision = decide(
            &case,
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
            by_redis: *by_redis,
            now,
        };
        let (end, events) = refuting.conclude();
        let dropped = matches!(decision.verdict, Verdict::DropMessage | Verdict::DropAll);
        let created = accepted.job.head.created;
        let tally = Tally::new(
            TallyResult::Refuted,
            decision.reply.status,
            acceptance.attempt,
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
            // A worker has just heard silence.
            Refuted::Leased if acceptance.until <= *by_redis => Answer::Stale,
            Refuted::Leased => {
                return Err(StoreError::Unavailable(
                    "the job of a bounce is under way; send the bounce again".to_owned(),
                ));
            }
        }))
    }
}

impl Refuting<'_> {
    fn conclude(mut self) -> (End, EventLines) {
        let mut failed = self.event(EventKind::AttemptDeferred);
        match &self.decision.verdict {
            Verdict::RetryAfter(delay) | Verdict::Hold(delay) => {
                let held = matches!(self.decision.verdict, Verdict::Hold(_));
                failed.reason = held.then(|| "held".to_owned());
                failed.delay = Some(delay.as_millis().try_into().unwrap_or(u64::MAX));
                self.events.push(&failed);
                self.remember(held);
                (
                    End::Retry {
                        job: self.job,
                        delay: *delay,
                    },
                    self.events,
                )
            }
            Verdict::DropMessage | Verdict::Close | Verdict::Confirm(_) => {
                self.drop(|message, dead| message.id == dead.id, DropReason::GivenUp);
                self.go_on()
            }
            Verdict::DropAll => {
                self.events.push(&failed);
                self.drop(
                    |message, dead| message.accepted.is_none() || message.id == dead.id,
                    DropReason::GivenUp,
                );
                self.go_on()
            }
            Verdict::Retire {
                standing,
                host_dead,
            } => {
                self.events.push(&failed);
                self.drop(|_, _| true, DropReason::Retired);
                let mut retired = self.event(EventKind::AddressRetired);
                (retired.message, retired.metadata) = (None, Map::new());
                self.events.push(&retired);
                let policy = retired.policy.unwrap_or_default();
                (
                    End::Retire {
                        standing: *standing,
                        policy,
                        host_dead: *host_dead,
                    },
                    self.events,
                )
            }
        }
    }

    /// The attempt has failed after all; its message waits as before.
    fn remember(&mut self, held: bool) {
        let reply = self.decision.reply.to_string();
        let head = &mut self.job.head;
        (head.held, head.status) = (held, self.decision.reply.status);
        head.remember(self.acceptance.attempt, &reply, self.now);
        if let Some(row) = self.decision.row {
            head.policy.clone_from(&row.name);
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

    fn drop(&mut self, is_dead: impl Fn(&Message, &Message) -> bool, reason: DropReason) {
        let (dead, left): (Vec<Message>, Vec<Message>) = mem::take(&mut self.job.messages)
            .into_iter()
            .partition(|message| is_dead(message, &self.message));
        self.job.messages = left;
        for message in dead {
            let mut dropped = Event::about(
                EventKind::MessageDropped,
                self.id.as_str(),
                &self.job.head.destination,
            )
            .of(&message);
            dropped.reason = Some(reason.as_str().to_owned());
            if message.id == self.message.id {
                dropped.status = self.decision.reply.status;
                dropped.reply = Some(self.decision.reply.to_string());
                dropped.policy = self.decision.row.map(|row| row.name.clone());
            }
            self.events.push(&dropped);
        }
    }

    /// What is left goes on: the next message to be tried is the probe, at once; else the job waits
    /// for other bounces.
    fn go_on(mut self) -> (End, EventLines) {
        if self.job.messages.is_empty() {
            self.events.push(&Event::about(
                EventKind::JobClosed,
                self.id.as_str(),
                &self.job.head.destination,
            ));
            return (End::Close, self.events);
        }
        let accepted = self
            .job
            .messages
            .iter()
            .map(|message| message.accepted.map(|acceptance| acceptance.until));
        let first = accepted
            .map(|until| until.unwrap_or(self.by_redis))
            .min()
            .unwrap_or(self.by_redis);
        let delay = first.since(self.by_redis);
        (
            End::Retry {
                job: self.job,
                delay,
            },
            self.events,
        )
    }

    fn event(&self, kind: EventKind) -> Event {
        let mut event =
            Event::about(kind, self.id.as_str(), &self.job.head.destination).of(&self.message);
        event.attempt = Some(self.acceptance.attempt);
        event.reply = Some(self.decision.reply.to_string());
        event.status = self.decision.reply.status;
        event.policy = self.decision.row.map(|row| row.name.clone());
        event
    }
}
