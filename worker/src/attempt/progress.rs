//! The progress of an attempt, and what each verdict does to its job. A verdict either lets the
//! next message be tried, or ends the attempt with a settlement.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use domain::clock::Timestamp;
use domain::event::{DropReason, Event, EventKind, EventLines};
use domain::evidence::OWN_ATTEMPT;
use domain::job::{End, Head, Job, Message};
use domain::outcome::Outcome;
use domain::pace::Feedback;
use domain::status::EnhancedStatus;
use domain::tally::{Tally, TallyResult};
use domain::transcript::Transcript;
use policy::decide::{Decision, Verdict};
use policy::lifecycle::{self, Conclusion, Origin, Retirement, is_unanswered};
use store::claim::LeasedJob;
use store::settle::Settlement;
use telemetry::traceparent::TraceContext;

/// An attempt that is running.
pub(super) struct Progress {
    pub(super) leased: LeasedJob,
    /// The messages to try. The one in front is tried first.
    pub(super) waiting: VecDeque<Message>,
    /// Messages that a relay has accepted and that may still bounce.
    pub(super) accepted: Vec<Message>,
    /// Whether the job only waited for bounces of accepted messages, so that nothing is tried.
    only_confirms: bool,
    /// The number of this attempt, or of the last one if nothing is tried.
    number: u32,
    /// The number of the attempt before this one.
    previous: u32,
    /// The route of the message that was just tried, if its peer could not be reached.
    pub(super) dead_route: Option<String>,
    /// The attempt number with which the policy decides. After a delivery it is 0: if a later
    /// message fails, that is a new outage, of which this is the first attempt.
    pub(super) step: u32,
    pub(super) delivered: bool,
    /// What the last outcome shows about the destination.
    pub(super) feedback: Feedback,
    pub(super) events: EventLines,
    /// The transcript of the last message that was tried.
    transcript: Option<Box<Transcript>>,
    /// Whether a message was completely sent but got no answer.
    unknown: bool,
    /// The span of this attempt, if it is sent to a collector.
    span: Option<TraceContext>,
}

impl Progress {
    /// Returns the attempt of a job that was just claimed.
    pub(super) fn new(mut leased: LeasedJob, span: Option<TraceContext>) -> Self {
        let (accepted, waiting) = split(mem::take(&mut leased.job.messages));
        let head = &mut leased.job.head;
        // The route is tried again now.
        head.dead_route = None;
        let previous = last_number(head, &accepted);
        let number = if waiting.is_empty() {
            previous
        } else {
            head.attempt + 1
        };
        Self {
            only_confirms: waiting.is_empty(),
            number,
            previous,
            dead_route: None,
            step: head.attempt + 1,
            leased,
            waiting,
            accepted,
            delivered: false,
            feedback: Feedback::Nothing,
            events: EventLines::default(),
            transcript: None,
            unknown: false,
            span,
        }
    }

    /// Records how the try of the message in front went.
    pub(super) fn note(&mut self, outcome: &Outcome, transcript: Option<Transcript>) {
        self.unknown |= is_unanswered(outcome)
            || transcript
                .as_ref()
                .is_some_and(|transcript| transcript.unknown);
        self.transcript = transcript.map(Box::new);
    }

    /// Returns the number of this attempt, or of the last one if nothing is tried.
    pub(super) fn attempt(&self) -> u32 {
        self.number
    }

    /// Records that nothing is tried, although messages wait. What happens from now on belongs to
    /// the attempt before this one.
    pub(super) fn try_nothing(&mut self) {
        self.number = self.previous;
    }

    /// Returns where the knowledge about the last outcome comes from.
    fn origin(&self, now: Timestamp) -> Origin<'_> {
        let host = self.transcript.as_deref().map(|seen| seen.host.as_str());
        Origin {
            at: now,
            source: OWN_ATTEMPT,
            remote_mta: host.filter(|host| !host.is_empty()),
        }
    }

    /// Applies the verdict to the message in front. Returns the settlement if this ends the
    /// attempt.
    pub(super) fn conclude(
        &mut self,
        outcome: &Outcome,
        decision: &Decision<'_>,
        now: Timestamp,
    ) -> Option<Box<Settlement>> {
        let about = self.message_event(self.waiting.front()?, decision);
        match lifecycle::conclude(decision, outcome, about, self.origin(now)) {
            Conclusion::Delivered(delivered) => {
                self.events.push(&delivered);
                self.waiting.pop_front();
                self.delivered = true;
                self.step = 0;
                None
            }
            Conclusion::Accepted(delay, accepted) => self.accept(accepted, delay, now),
            Conclusion::Dropped(dropped) => {
                self.events.push(&dropped);
                self.waiting.pop_front();
                None
            }
            Conclusion::Waits(delay, deferred) => {
                let tally = self.tally(TallyResult::Deferred, decision.reply.status, now);
                self.renew_if_delivered(now);
                let head = &mut self.leased.job.head;
                let is_held = matches!(decision.verdict, Verdict::Hold(_));
                let number = if is_held { head.attempt + 1 } else { self.step };
                if !is_held {
                    head.attempt = number;
                }
                lifecycle::record_failure(head, decision, number, now);
                if is_held {
                    head.dead_route = self.dead_route.take();
                }
                head.last_span = None;
                if let Some(last) = head.history.last_mut() {
                    last.traceparent = self.span.map(|span| span.text());
                }
                Some(self.wait(delay, tally, deferred))
            }
            Conclusion::GivenUp(failed) => {
                self.events.push(&failed);
                self.drop_all(DropReason::GivenUp);
                Some(self.end(now))
            }
            Conclusion::Retired(retirement) => {
                let Retirement {
                    failed,
                    retired,
                    end,
                } = *retirement;
                self.events.push(&failed);
                self.drop_all(DropReason::Retired);
                // Accepted messages are dropped too, because the address is dead.
                self.waiting = mem::take(&mut self.accepted).into();
                self.drop_all(DropReason::Retired);
                let tally = self.tally(TallyResult::Retired, decision.reply.status, now);
                Some(self.settlement(end, tally, &retired))
            }
        }
    }

    /// Returns an event about the job.
    pub(super) fn job_event(&self, kind: EventKind) -> Event {
        Event::about(
            kind,
            self.leased.lease.job.clone(),
            &self.leased.job.head.destination,
        )
    }

    /// Returns an event about one message, with its reply and policy row.
    fn message_event(&self, message: &Message, decision: &Decision<'_>) -> Event {
        let mut event = self
            .job_event(EventKind::AttemptDeferred)
            .with_message(message);
        event.attempt = Some(self.attempt());
        event.late_ms = Some(self.leased.claimed_at.ms() - self.leased.lease.due.ms());
        event.reply = Some(decision.reply.to_string());
        event.status = decision.reply.status;
        event.transcript.clone_from(&self.transcript);
        event.trace_id = self.span.map(|span| span.trace_id());
        event.policy = decision.row.map(|row| row.name.clone());
        event
    }

    pub(super) fn drop_expired(&mut self) {
        let now = self.leased.claimed_at;
        if !self.waiting.iter().any(|message| message.expired(now)) {
            return;
        }
        for message in mem::take(&mut self.waiting) {
            if message.expired(now) {
                let mut expired = self
                    .job_event(EventKind::MessageExpired)
                    .with_message(&message);
                expired.attempt = Some(self.previous);
                self.events.push(&expired);
            } else {
                self.waiting.push_back(message);
            }
        }
        if self.waiting.is_empty() {
            self.try_nothing();
        }
    }

    fn drop_all(&mut self, reason: DropReason) {
        for message in mem::take(&mut self.waiting) {
            let mut dropped = self
                .job_event(EventKind::MessageDropped)
                .with_message(&message);
            dropped.attempt = Some(self.attempt());
            dropped.reason = Some(reason.as_str().to_owned());
            self.events.push(&dropped);
        }
    }

    /// Returns the settlement after which the job waits for its next attempt, with all messages
    /// that have not ended.
    pub(super) fn wait(
        &mut self,
        delay: Duration,
        tally: Tally,
        mut last: Event,
    ) -> Box<Settlement> {
        last.delay = Some(ms(delay));
        let mut messages = mem::take(&mut self.accepted);
        messages.extend(mem::take(&mut self.waiting));
        let job = Job {
            messages,
            ..self.leased.job.clone()
        };
        self.settlement(End::Retry { job, delay }, tally, &last)
    }

    /// Ends a cancelled attempt. Messages that have ended stay ended, and the others are due again
    /// at once. Returns `None` if nothing has happened in the attempt.
    pub(super) fn interrupt(mut self, now: Timestamp) -> Option<Box<Settlement>> {
        if self.events.is_empty() {
            return None;
        }
        let job = &self.leased.job;
        let mut last = self.job_event(EventKind::AttemptDeferred);
        last.attempt = Some(self.attempt());
        last.reason = Some("interrupted".to_owned());
        let result = if self.delivered {
            TallyResult::Delivered
        } else {
            TallyResult::Ended
        };
        let tally = self.tally(result, job.head.status, now);
        self.renew_if_delivered(now);
        self.keep_span();
        Some(self.wait(Duration::ZERO, tally, last))
    }

    /// Keeps the span of this attempt in the job, for the link of the next attempt. For an attempt
    /// that is not added to the history.
    pub(super) fn keep_span(&mut self) {
        if let Some(span) = self.span {
            self.leased.job.head.last_span = Some(span.text());
        }
    }

    /// If a message was delivered, the address is alive. So the other messages start again with a
    /// new job head.
    pub(super) fn renew_if_delivered(&mut self, now: Timestamp) {
        if self.delivered {
            let head = &mut self.leased.job.head;
            *head = head.clone().renewed(now);
        }
    }

    /// Ends an attempt that has no message left to try. The job waits if a relay has accepted
    /// messages of it. Otherwise the job ends, and the address keeps its standing.
    pub(super) fn end(&mut self, now: Timestamp) -> Box<Settlement> {
        if let Some(waiting) = self.wait_for_bounces(now) {
            return waiting;
        }
        let job = &self.leased.job;
        let mut last = self.job_event(EventKind::JobClosed);
        last.attempt = Some(self.attempt());
        let result = if self.delivered {
            TallyResult::Delivered
        } else {
            TallyResult::Ended
        };
        let tally = self.tally(result, job.head.status, now);
        self.settlement(End::Close, tally, &last)
    }

    /// Returns how this attempt is counted if it ends with this result.
    pub(super) fn tally(
        &self,
        result: TallyResult,
        status: Option<EnhancedStatus>,
        now: Timestamp,
    ) -> Tally {
        let result = match result {
            TallyResult::Delivered if self.only_confirms => TallyResult::Confirmed,
            TallyResult::Retired => result,
            _ if self.unknown => TallyResult::Unknown,
            _ => result,
        };
        Tally::new(
            result,
            status,
            self.attempt(),
            self.leased.job.head.created,
            now,
        )
    }

    fn settlement(&mut self, end: End, tally: Tally, last: &Event) -> Box<Settlement> {
        self.events.push(last);
        let events = mem::take(&mut self.events);
        let lease = self.leased.lease.clone();
        Box::new(Settlement {
            lease,
            end,
            delivered: self.delivered,
            feedback: self.feedback,
            tally,
            events,
        })
    }
}

pub(super) fn ms(delay: Duration) -> u64 {
    delay.as_millis().try_into().unwrap_or(u64::MAX)
}

/// Returns the number of the last attempt. After a delivery the head counts from 0 again, although
/// messages that a relay accepted in that attempt still wait.
fn last_number(head: &Head, accepted: &[Message]) -> u32 {
    let failed = head.history.last();
    let failed_at = failed
        .filter(|last| last.attempt == head.attempt)
        .map(|last| last.at);
    accepted
        .iter()
        .filter_map(|message| message.accepted)
        .filter(|acceptance| failed_at.is_none_or(|at| acceptance.at > at))
        .max_by_key(|acceptance| acceptance.at)
        .map_or(head.attempt, |acceptance| acceptance.number())
}

/// Splits messages into those that a relay has accepted and those that are to be tried.
fn split(messages: Vec<Message>) -> (Vec<Message>, VecDeque<Message>) {
    if messages.iter().all(|message| message.accepted.is_none()) {
        return (Vec::new(), messages.into());
    }
    let (accepted, waiting): (Vec<Message>, Vec<Message>) = messages
        .into_iter()
        .partition(|message| message.accepted.is_some());
    (accepted, waiting.into())
}
