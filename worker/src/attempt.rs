//! One attempt of one job, from the lease to the settlement: drop what has expired, try the oldest
//! message, and while mail gets through let the rest follow.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::Clock;
use domain::destination::Destination;
use domain::job::Message;
use domain::outcome::{Fault, FaultKind, Outcome, Side};
use domain::pace::Feedback;
use domain::reply::Reply;
use domain::transcript::Transcript;
use policy::decide::{Case, Decision, Verdict, decide};
use policy::table::Table;
use senders::attempt::Attempt;
use senders::idempotency_scope::IdempotencyScope;
use senders::in_doubt::InDoubt;
use senders::lease_end::LeaseEnd;
use store::claim::LeasedJob;
use store::settle::Settlement;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::progress::Progress;
use self::trouble::RouteTroubles;
use crate::content::Contents;
use crate::content::error::ContentError;
use crate::routes::Routes;

mod confirm;
mod progress;
mod trouble;

/// How long a sender may take to end an attempt that is cut off while the peer may have the
/// message. Less than the worker waits for the end of the whole.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(4);

/// How long an attempt waits for files to become free: the first time, and at most. Each time is
/// twice as long as the one before, so that it gives up after a minute.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(125);
const SHORTAGE_PAUSE_MAX: Duration = Duration::from_secs(32);

/// What an attempt needs beside the job.
pub struct Attempter {
    routes: Routes,
    contents: Contents,
    table: Arc<Table>,
    clock: Arc<dyn Clock>,
    troubles: RouteTroubles,
}

impl Attempter {
    /// An attempter with these ways out, this content and this policy.
    pub fn new(
        routes: Routes,
        contents: Contents,
        table: Arc<Table>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            routes,
            contents,
            table,
            clock,
            troubles: RouteTroubles::default(),
        }
    }

    /// Tries a leased job, and says what is to be settled. Never fails: what goes wrong is an
    /// outcome too. Where `cut` is cancelled it stops at the message that is under way, within some
    /// seconds where the peer may have that one already, and says what happened until then; `None`
    /// where that is nothing, and the job can be given back untried. When the lease is over it
    /// cancels `cut` itself before it sends anything more.
    pub async fn attempt(
        &self,
        leased: LeasedJob,
        cut: &CancellationToken,
        lease_end: &LeaseEnd,
    ) -> Option<Box<Settlement>> {
        let mut progress = Progress::new(leased);
        progress.confirm_expired();
        progress.drop_expired();
        if let Some(settlement) = self.end_by_age(&mut progress) {
            return Some(settlement);
        }
        while let Some(message) = progress.waiting.front() {
            let Some((outcome, transcript)) = self
                .send_unless_cut(&progress, message, cut, lease_end)
                .await
            else {
                return progress.interrupt(self.clock.now());
            };
            let decision = self.judge(&progress, message, &outcome);
            // Whose trouble it is that we did not wait is no news.
            if !cut.is_cancelled() {
                self.say(message, &outcome);
            }
            progress.note(&outcome, transcript);
            progress.feedback = feedback(&outcome, &decision);
            if let Some(settlement) = progress.conclude(&outcome, &decision, self.clock.now()) {
                return Some(settlement);
            }
        }
        Some(progress.end(self.clock.now()))
    }

    /// A job past its age ends as if its last attempt had failed, and nothing is sent. Where the
    /// last try did not count, because the trouble was ours, it is the messages that are given up,
    /// and nothing is said about the address.
    fn end_by_age(&self, progress: &mut Progress) -> Option<Box<Settlement>> {
        let LeasedJob {
            job, claimed_at, ..
        } = &progress.leased;
        if claimed_at.since(job.head.created) < self.table.max_age {
            return None;
        }
        let last_reply = job
            .head
            .history
            .last()
            .map(|last| last.reply.as_str())
            .unwrap_or_default();
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

    /// Sends a message, or stops where the attempt is cut off. `None`: it was not sent. Where all
    /// of it is out already, the peer may have it: its answer is waited for a little longer, and
    /// where it does not come that is the outcome.
    async fn send_unless_cut(
        &self,
        progress: &Progress,
        message: &Message,
        cut: &CancellationToken,
        lease_end: &LeaseEnd,
    ) -> Option<(Outcome, Option<Transcript>)> {
        let in_doubt = InDoubt::within(cut.clone(), lease_end.clone());
        let mut sending = pin!(self.send_when_files_are_free(progress, message, in_doubt.clone()));
        if let Some(ended) = cut.run_until_cancelled(&mut sending).await {
            return Some(ended);
        }
        if !in_doubt.is_open() {
            return None;
        }
        let unanswered = || {
            let text = "cut off before the answer".to_owned();
            (
                Outcome::Unreachable(Fault::ours(FaultKind::Unanswered, text)),
                None,
            )
        };
        Some(
            timeout(LAST_ANSWER_MAX, sending)
                .await
                .unwrap_or_else(|_| unanswered()),
        )
    }

    /// Sends, and again after a pause if this process may open no more files: they become free as
    /// other attempts end. So a worker that is short of them slows down, because an attempt that
    /// waits keeps its permit.
    async fn send_when_files_are_free(
        &self,
        progress: &Progress,
        message: &Message,
        in_doubt: InDoubt,
    ) -> (Outcome, Option<Transcript>) {
        let mut pause = SHORTAGE_PAUSE;
        loop {
            let sent = self.send(progress, message, in_doubt.clone()).await;
            if !is_shortage(&sent.0) || pause > SHORTAGE_PAUSE_MAX {
                return sent;
            }
            self.say(message, &sent.0);
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn send(
        &self,
        progress: &Progress,
        message: &Message,
        in_doubt: InDoubt,
    ) -> (Outcome, Option<Transcript>) {
        let ours = |kind, text| (Outcome::Unreachable(Fault::ours(kind, text)), None);
        let Some(sender) = self.routes.sender(message.route.as_deref()) else {
            let route = message.route.as_deref().unwrap_or("the default one");
            if self.routes.is_first_to_miss(route) {
                tracing::error!(
                    route,
                    "messages name a route that this worker does not have, and wait; add such a [[route]]"
                );
            }
            return ours(
                FaultKind::Local,
                format!("this worker has no route {route}"),
            );
        };
        let content = match message.content.as_ref().filter(|_| sender.wants_content()) {
            None => None,
            // Boxed, because what it takes to read content would make every attempt's future some
            // kilobytes larger.
            Some(content) => match Box::pin(self.contents.read(content)).await {
                Ok(content) => Some(content),
                Err(ContentError::Missing(why)) => {
                    return (Outcome::Unreadable(why.to_owned()), None);
                }
                Err(ContentError::Unread(fault)) => return (Outcome::Unreachable(fault), None),
            },
        };
        let attempt = Attempt {
            job: progress.leased.lease.job.clone(),
            number: progress.attempt(),
            message_id: message.id.clone(),
            recipient: progress.leased.job.id.recipient.clone(),
            envelope_from: self.routes.return_path(
                &progress.leased.job.id,
                message,
                self.clock.now(),
            ),
            scope: IdempotencyScope::of(&progress.leased.job.head),
            in_doubt,
            stream: message.stream.clone(),
            traceparent: message.traceparent.clone(),
            metadata: message.metadata.clone(),
            content,
        };
        // Here for all senders; those that connect first look again when they have.
        attempt.in_doubt.may_send().await;
        let (outcome, transcript) = sender.send_traced(&attempt).await;
        if let Some(transcript) = &transcript {
            trace(transcript, &progress.leased.job.head.destination);
        }
        (outcome, transcript)
    }

    /// Trouble of our own is said once per route. Routes that are not there are named on their own.
    fn say(&self, message: &Message, outcome: &Outcome) {
        let route = message.route.as_deref();
        if self.routes.sender(route).is_some() {
            self.troubles.say(self.routes.name(route), outcome);
        }
    }

    fn judge(&self, progress: &Progress, message: &Message, outcome: &Outcome) -> Decision<'_> {
        let LeasedJob {
            job,
            lease,
            delivered_there,
            ..
        } = &progress.leased;
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
        decide(
            &case,
            outcome,
            &self.table,
            self.clock.now().max(progress.leased.claimed_at),
        )
    }
}

/// Writes down what the wire showed. The reply is not among it, for it may quote an address.
fn trace(transcript: &Transcript, destination: &Destination) {
    let Transcript {
        phase,
        host,
        address,
        tls,
        reused,
        unknown,
        ..
    } = transcript;
    let ms = transcript.whole_ms();
    if *unknown {
        tracing::warn!(%destination, host, address, ms, "a message was sent whole and not answered for");
    }
    tracing::debug!(%destination, %phase, host, address, tls, reused, unknown, ms, "an attempt over SMTP has ended");
}

/// Whether nothing was sent because no more files may be opened for now.
fn is_shortage(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unreachable(fault) if fault.is_shortage() && fault.kind != FaultKind::Unanswered)
}

/// What an outcome says about the destination. Our own trouble says nothing.
fn feedback(outcome: &Outcome, decision: &Decision<'_>) -> Feedback {
    match outcome {
        Outcome::Delivered(_) | Outcome::Accepted(_) => Feedback::Good,
        Outcome::Unreadable(_) => Feedback::Nothing,
        Outcome::Unreachable(fault) if fault.side == Side::Ours => Feedback::Nothing,
        Outcome::Deferred(_) | Outcome::Refused(_) => {
            match decision.row.map(|row| row.scope.feedback()) {
                None | Some(Feedback::Nothing) => Feedback::Answered,
                Some(feedback) => feedback,
            }
        }
        Outcome::Unreachable(_) => decision
            .row
            .map_or(Feedback::Nothing, |row| row.scope.feedback()),
    }
}
