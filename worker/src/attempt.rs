//! One attempt of one job, from the lease to the settlement: drop what has expired, try the oldest message, and while
//! mail gets through let the rest follow.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Map;
use shared::clock::{Clock, Timestamp};
use shared::event::{DropReason, Event, EventKind, EventLines};
use shared::job::{Acceptance, Job, Message};
use shared::outcome::{Fault, FaultKind, Outcome, Side};
use shared::pace::Feedback;
use shared::placement::Destination;
use shared::policy::{Case, Decision, Scope, Table, Verdict, decide};
use shared::reply::Reply;
use shared::status::EnhancedStatus;
use shared::store::claim::LeasedJob;
use shared::store::settle::{End, Settlement};
use shared::tally::{Tally, TallyResult};
use shared::transcript::Transcript;

use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_128;

use crate::content::{ContentError, Contents};
use crate::routes::Routes;
use crate::sender::Attempt;

/// What an attempt needs beside the job.
pub struct Attempter {
    routes: Routes,
    contents: Contents,
    table: Arc<Table>,
    clock: Arc<dyn Clock>,
}

/// The attempt while it goes on.
struct Progress {
    leased: LeasedJob,
    waiting: VecDeque<Message>,
    /// What a relay has taken and a bounce may still come for.
    accepted: Vec<Message>,
    /// Whether nothing is tried, because all that there was to do was to hear no bounce.
    only_heard: bool,
    /// Which attempt policy is asked about. After a delivery it is 0: a failure then is a new outage, which our own try
    /// was the first to meet.
    step: u32,
    delivered: bool,
    /// What the last outcome says about the destination.
    feedback: Feedback,
    events: EventLines,
    /// What the wire showed of the last message.
    transcript: Option<Box<Transcript>>,
}

impl Attempter {
    /// An attempter with these ways out, this content and this policy.
    pub fn new(routes: Routes, contents: Contents, table: Arc<Table>, clock: Arc<dyn Clock>) -> Self {
        Self { routes, contents, table, clock }
    }

    /// Tries a leased job, and says what is to be settled. Never fails: what goes wrong is an outcome too. Where `cut` is
    /// cancelled it stops at the message that is under way and says what happened until then; `None` where that is
    /// nothing, and the job can be given back untried.
    pub async fn attempt(&self, mut leased: LeasedJob, cut: &CancellationToken) -> Option<Box<Settlement>> {
        let (accepted, waiting): (Vec<Message>, VecDeque<Message>) = split(mem::take(&mut leased.job.messages));
        let step = leased.job.head.attempt + 1;
        let only_heard = waiting.is_empty();
        let mut progress = Progress {
            leased,
            waiting,
            accepted,
            only_heard,
            step,
            delivered: false,
            feedback: Feedback::Nothing,
            events: EventLines::default(),
            transcript: None,
        };
        progress.hear_silence();
        progress.drop_expired();
        if let Some(settlement) = self.end_by_age(&mut progress) {
            return Some(settlement);
        }
        while let Some(message) = progress.waiting.front() {
            let Some((outcome, transcript)) = cut.run_until_cancelled(self.send(&progress, message)).await else {
                return progress.interrupt(self.clock.now());
            };
            progress.transcript = transcript.map(Box::new);
            let decision = self.judge(&progress, message, &outcome);
            progress.feedback = feedback(&outcome, &decision);
            if let Some(settlement) = progress.conclude(&outcome, &decision, self.clock.now()) {
                return Some(settlement);
            }
        }
        Some(progress.end(self.clock.now()))
    }

    /// A job past its age ends as if its last attempt had failed, and nothing is sent. Where the last try did not count,
    /// because the trouble was ours, it is the messages that are given up, and nothing is said about the address.
    fn end_by_age(&self, progress: &mut Progress) -> Option<Box<Settlement>> {
        let LeasedJob { job, claimed_at, .. } = &progress.leased;
        if claimed_at.since(job.head.created) < self.table.max_age {
            return None;
        }
        let last_reply = job.head.history.last().map(|last| last.reply.as_str()).unwrap_or_default();
        let outcome = Outcome::Deferred(Reply::parse(last_reply));
        let held = job.head.held;
        while let Some(message) = progress.waiting.front() {
            let mut decision = self.judge(progress, message, &outcome);
            if held {
                decision.verdict = Verdict::DropAll;
            }
            if let Some(settlement) = progress.conclude(&outcome, &decision, self.clock.now()) {
                return Some(settlement);
            }
        }
        None
    }

    async fn send(&self, progress: &Progress, message: &Message) -> (Outcome, Option<Transcript>) {
        let ours = |kind, text| (Outcome::Unreachable(Fault { kind, side: Side::Ours, text }), None);
        let Some(sender) = self.routes.sender(message.route.as_deref()) else {
            let route = message.route.as_deref().unwrap_or("the default one");
            if self.routes.is_first_to_miss(route) {
                tracing::error!(
                    route,
                    "messages name a route that this worker does not have, and wait; add such a [[route]]"
                );
            }
            return ours(FaultKind::Local, format!("this worker has no route {route}"));
        };
        let content = match message.content.as_ref().filter(|_| sender.wants_content()) {
            None => None,
            // Boxed, because what it takes to read content would make every attempt's future some kilobytes larger.
            Some(content) => match Box::pin(self.contents.read(content)).await {
                Ok(content) => Some(content),
                Err(ContentError::Missing(why)) => return (Outcome::Unreadable(why.to_owned()), None),
                Err(ContentError::Unread(why)) => return ours(FaultKind::Local, format!("content not read: {why}")),
            },
        };
        let attempt = Attempt {
            job: progress.leased.lease.job.clone(),
            number: progress.attempt(),
            message_id: message.id.clone(),
            recipient: progress.leased.job.id.recipient.clone(),
            envelope_from: self.routes.return_path(&progress.leased.job.id, message, self.clock.now()),
            key: key(&progress.leased, message),
            stream: message.stream.clone(),
            traceparent: message.traceparent.clone(),
            metadata: message.metadata.clone(),
            content,
        };
        let (outcome, transcript) = sender.send_traced(&attempt).await;
        if let Some(transcript) = &transcript {
            trace(transcript, &progress.leased.job.head.destination);
        }
        (outcome, transcript)
    }

    fn judge(&self, progress: &Progress, message: &Message, outcome: &Outcome) -> Decision<'_> {
        let LeasedJob { job, lease, delivered_there, .. } = &progress.leased;
        let case = Case {
            job: &lease.job,
            account: job.id.account.as_str(),
            stream: message.stream.as_deref(),
            destination: job.head.destination.as_str(),
            attempt: progress.step,
            created: job.head.created,
            delivered_there: *delivered_there,
            confirm: self.routes.confirm(message.route.as_deref()),
        };
        decide(&case, outcome, &self.table, self.clock.now().max(progress.leased.claimed_at))
    }
}

impl Progress {
    /// The number of this attempt of the job: where nothing is tried, of the last one.
    fn attempt(&self) -> u32 {
        self.leased.job.head.attempt + u32::from(!self.only_heard)
    }

    /// No bounce has come for what was accepted long enough ago: it got through.
    fn hear_silence(&mut self) {
        let now = self.leased.claimed_at;
        for message in mem::take(&mut self.accepted) {
            match message.accepted {
                Some(acceptance) if acceptance.until <= now => {
                    let mut delivered = self.about(EventKind::MessageDelivered).of(&message);
                    delivered.attempt = Some(self.leased.job.head.attempt);
                    delivered.reason = Some("silence".to_owned());
                    self.events.push(&delivered);
                    (self.delivered, self.step) = (true, 0);
                }
                _ => self.accepted.push(message),
            }
        }
    }

    /// Does what policy says about the message in front. `Some` where that ends the attempt.
    fn conclude(&mut self, outcome: &Outcome, decision: &Decision<'_>, now: Timestamp) -> Option<Box<Settlement>> {
        let message = self.waiting.front()?;
        let said = |kind| self.event(kind, message, decision);
        match &decision.verdict {
            Verdict::Close => {
                let delivered = said(EventKind::MessageDelivered);
                self.events.push(&delivered);
                self.waiting.pop_front();
                self.delivered = true;
                self.step = 0;
                None
            }
            Verdict::Confirm(delay) => {
                let mut accepted = said(EventKind::MessageAccepted);
                let mut message = self.waiting.pop_front()?;
                let at = self.leased.claimed_at;
                message.accepted = Some(Acceptance { attempt: self.step, at, until: at.plus(*delay) });
                self.accepted.push(message);
                // The probe waits alone; an address that has shown that it is alive gets the rest at once.
                if self.delivered && !self.waiting.is_empty() {
                    accepted.delay = Some(ms(*delay));
                    self.events.push(&accepted);
                    return None;
                }
                let tally = self.tally(TallyResult::Accepted, self.leased.job.head.status, now);
                self.renew_if_delivered(now);
                let head = &mut self.leased.job.head;
                (head.attempt, head.held) = (self.step, false);
                Some(self.wait(*delay, tally, accepted))
            }
            Verdict::DropMessage => {
                let mut dropped = said(EventKind::MessageDropped);
                let missing = matches!(outcome, Outcome::Unreadable(_));
                let reason = if missing { DropReason::ContentMissing } else { DropReason::GivenUp };
                dropped.reason = Some(reason.as_str().to_owned());
                self.events.push(&dropped);
                self.waiting.pop_front();
                None
            }
            Verdict::RetryAfter(delay) => {
                let deferred = said(EventKind::AttemptDeferred);
                let tally = self.tally(TallyResult::Deferred, decision.reply.status, now);
                self.renew_if_delivered(now);
                let head = &mut self.leased.job.head;
                (head.attempt, head.held) = (self.step, false);
                head.status = decision.reply.status;
                head.remember(self.step, &decision.reply.to_string(), now);
                if let Some(row) = decision.row {
                    head.policy.clone_from(&row.name);
                }
                Some(self.wait(*delay, tally, deferred))
            }
            Verdict::Hold(delay) => {
                let mut held = said(EventKind::AttemptDeferred);
                held.reason = Some("held".to_owned());
                let tally = self.tally(TallyResult::Deferred, decision.reply.status, now);
                self.renew_if_delivered(now);
                let (number, head) = (self.leased.job.head.attempt + 1, &mut self.leased.job.head);
                head.held = true;
                head.remember(number, &decision.reply.to_string(), now);
                Some(self.wait(*delay, tally, held))
            }
            Verdict::DropAll => {
                let deferred = said(EventKind::AttemptDeferred);
                self.events.push(&deferred);
                self.drop_all(DropReason::GivenUp);
                Some(self.end(now))
            }
            Verdict::Retire { standing, host_dead } => {
                let deferred = said(EventKind::AttemptDeferred);
                let mut retired = said(EventKind::AddressRetired);
                (retired.message, retired.late_ms, retired.metadata) = (None, None, Map::new());
                self.events.push(&deferred);
                self.drop_all(DropReason::Retired);
                // Nobody looks after these any more: the address has been found dead.
                self.waiting = mem::take(&mut self.accepted).into();
                self.drop_all(DropReason::Retired);
                let policy = retired.policy.clone().unwrap_or_default();
                let end = End::Retire { standing: *standing, policy, host_dead: *host_dead };
                let tally = self.tally(TallyResult::Retired, decision.reply.status, now);
                Some(self.settlement(end, tally, &retired))
            }
        }
    }

    /// An event about the job.
    fn about(&self, kind: EventKind) -> Event {
        Event::about(kind, self.leased.lease.job.clone(), &self.leased.job.head.destination)
    }

    /// An event about one message, and what was said about it.
    fn event(&self, kind: EventKind, message: &Message, decision: &Decision<'_>) -> Event {
        let mut event = self.about(kind).of(message);
        event.attempt = Some(self.attempt());
        event.late_ms = Some(self.leased.claimed_at.ms() - self.leased.lease.due.ms());
        event.reply = Some(decision.reply.to_string());
        event.status = decision.reply.status;
        event.transcript.clone_from(&self.transcript);
        event.policy = decision.row.map(|row| row.name.clone());
        event
    }

    fn drop_expired(&mut self) {
        let now = self.leased.claimed_at;
        for message in mem::take(&mut self.waiting) {
            if message.expired(now) {
                let expired = self.about(EventKind::MessageExpired).of(&message);
                self.events.push(&expired);
            } else {
                self.waiting.push_back(message);
            }
        }
    }

    fn drop_all(&mut self, reason: DropReason) {
        for message in mem::take(&mut self.waiting) {
            let mut dropped = self.about(EventKind::MessageDropped).of(&message);
            dropped.reason = Some(reason.as_str().to_owned());
            self.events.push(&dropped);
        }
    }

    /// The job waits for its next attempt, with what still waits in it.
    fn wait(&mut self, delay: Duration, tally: Tally, mut last: Event) -> Box<Settlement> {
        last.delay = Some(ms(delay));
        let mut messages = mem::take(&mut self.accepted);
        messages.extend(mem::take(&mut self.waiting));
        let job = Job { messages, ..self.leased.job.clone() };
        self.settlement(End::Retry { job, delay }, tally, &last)
    }

    /// The attempt was cut off: what has ended has ended, and the rest is due again at once.
    fn interrupt(mut self, now: Timestamp) -> Option<Box<Settlement>> {
        if self.events.is_empty() {
            return None;
        }
        let job = &self.leased.job;
        let mut last = self.about(EventKind::AttemptDeferred);
        last.attempt = Some(self.attempt());
        last.reason = Some("interrupted".to_owned());
        let result = if self.delivered { TallyResult::Delivered } else { TallyResult::Ended };
        let tally = self.tally(result, job.head.status, now);
        self.renew_if_delivered(now);
        Some(self.wait(Duration::ZERO, tally, last))
    }

    /// After a delivery the address has shown that it is alive: what still waits begins anew.
    fn renew_if_delivered(&mut self, now: Timestamp) {
        if self.delivered {
            let head = &mut self.leased.job.head;
            *head = head.clone().renewed(now);
        }
    }

    /// No message is left to try: the job ends, and the address keeps its standing; or it waits for what was accepted.
    fn end(&mut self, now: Timestamp) -> Box<Settlement> {
        if let Some(until) = self.accepted.iter().filter_map(|message| Some(message.accepted?.until)).min() {
            return self.wait_for_bounces(until, now);
        }
        let job = &self.leased.job;
        let mut last = self.about(EventKind::JobClosed);
        last.attempt = Some(self.attempt());
        let result = if self.delivered { TallyResult::Delivered } else { TallyResult::Ended };
        let tally = self.tally(result, job.head.status, now);
        self.settlement(End::Close, tally, &last)
    }

    fn wait_for_bounces(&mut self, until: Timestamp, now: Timestamp) -> Box<Settlement> {
        let mut last = self.about(EventKind::AttemptDeferred);
        last.attempt = Some(self.attempt());
        last.reason = Some("confirming".to_owned());
        let result = if self.delivered { TallyResult::Delivered } else { TallyResult::Accepted };
        let tally = self.tally(result, self.leased.job.head.status, now);
        self.renew_if_delivered(now);
        self.wait(until.since(now.max(self.leased.claimed_at)), tally, last)
    }

    fn tally(&self, result: TallyResult, status: Option<EnhancedStatus>, now: Timestamp) -> Tally {
        Tally::new(result, status, self.attempt(), self.leased.job.head.created, now)
    }

    fn settlement(&mut self, end: End, tally: Tally, last: &Event) -> Box<Settlement> {
        self.events.push(last);
        let events = mem::take(&mut self.events);
        let lease = self.leased.lease.clone();
        Box::new(Settlement { lease, end, delivered: self.delivered, feedback: self.feedback, tally, events })
    }
}

/// Writes down what the wire showed. The reply is not among it, for it may quote an address.
fn trace(transcript: &Transcript, destination: &Destination) {
    let Transcript { phase, host, address, tls, reused, unknown, .. } = transcript;
    let ms = transcript.whole_ms();
    if *unknown {
        tracing::warn!(%destination, host, address, ms, "a message was sent whole and not answered for");
    }
    tracing::debug!(%destination, %phase, host, address, tls, reused, unknown, ms, "an attempt over SMTP has ended");
}

/// Those that a relay has taken, and those that are to be tried.
fn split(messages: Vec<Message>) -> (Vec<Message>, VecDeque<Message>) {
    if messages.iter().all(|message| message.accepted.is_none()) {
        return (Vec::new(), messages.into());
    }
    let (accepted, waiting): (Vec<Message>, Vec<Message>) =
        messages.into_iter().partition(|message| message.accepted.is_some());
    (accepted, waiting.into())
}

fn ms(delay: Duration) -> u64 {
    delay.as_millis().try_into().unwrap_or(u64::MAX)
}

/// What names an attempt for one message. Each settlement changes the job's number or its last try, and a new job has
/// another beginning; a lapse changes none of them.
fn key(leased: &LeasedJob, message: &Message) -> String {
    let head = &leased.job.head;
    let last = head.history.last().map_or(0, |last| last.at.ms());
    let named = format!("{}\n{}\n{}\n{last}\n{}", leased.lease.job, head.created.ms(), head.attempt, message.id);
    format!("rd-{:032x}", xxh3_128(named.as_bytes()))
}

/// What an outcome says about the destination. Our own trouble says nothing, and a mail system that finds fault with a
/// mailbox or a message works.
fn feedback(outcome: &Outcome, decision: &Decision<'_>) -> Feedback {
    match outcome {
        Outcome::Delivered(_) | Outcome::Accepted(_) => Feedback::Good,
        Outcome::Unreadable(_) => Feedback::Nothing,
        Outcome::Unreachable(fault) if fault.side == Side::Ours => Feedback::Nothing,
        Outcome::Deferred(_) | Outcome::Refused(_) | Outcome::Unreachable(_) => match decision.row.map(|row| row.scope)
        {
            Some(Scope::Host) => Feedback::HostFailed,
            Some(Scope::Route) => Feedback::RouteFailed,
            Some(Scope::Mailbox | Scope::Message) => Feedback::Good,
            Some(Scope::Unknown) | None => Feedback::Nothing,
        },
    }
}
