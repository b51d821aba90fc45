//! One attempt of one job, from the lease to the settlement. It drops expired messages and tries
//! the oldest of the others. As long as messages get through, it sends the next one.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use classify::fingerprint::fingerprint;
use domain::clock::Clock;
use domain::destination::Destination;
use domain::exchange::Exchange;
use domain::job::Message;
use domain::outcome::{Fault, FaultKind, Outcome, Side};
use domain::pace::Feedback;
use domain::reply::Reply;
use domain::transcript::Transcript;
use policy::decide::{AttemptFacts, Decision, Verdict, decide};
use policy::table::Table;
use senders::attempt::Attempt;
use senders::idempotency_scope::IdempotencyScope;
use senders::in_doubt::InDoubt;
use senders::lease_end::LeaseEnd;
use store::claim::LeasedJob;
use store::settle::Settlement;
use system::limiter::admit_outage;
use telemetry::ids::IdHasher;
use telemetry::metrics::{Attempted, Metrics};
use telemetry::spans::{AttemptSpan, Judged, Settling, Starting, Tracing};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::progress::Progress;
use self::trouble::RouteTroubles;
use crate::content::Contents;
use crate::content::error::ContentError;
use crate::route_gates::RouteGates;
use crate::routes::Routes;

mod confirm;
mod progress;
mod trouble;

/// How long a sender may take to end an attempt that is cancelled while the peer may have the
/// message. The worker waits longer than this for the end of the whole attempt.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(4);

/// How long an attempt waits for free file descriptors the first time, and the longest such wait.
/// Each wait is twice as long as the previous one. The attempt gives up after about a minute.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(125);
const SHORTAGE_PAUSE_MAX: Duration = Duration::from_secs(32);

/// How metrics call all routes that messages name and this worker does not have.
const MISSING_ROUTE: &str = "missing";

/// What an attempt needs in addition to the job.
pub struct Attempter {
    routes: Routes,
    contents: Contents,
    table: Arc<Table>,
    clock: Arc<dyn Clock>,
    troubles: RouteTroubles,
    gates: RouteGates,
    tracing: Tracing,
    metrics: Metrics,
    /// Names jobs in the log.
    ids: Option<IdHasher>,
}

/// What an attempt saw of the message that it tried last.
struct Tried {
    outcome: Outcome,
    /// The kind of sender.
    sender: &'static str,
}

/// The end of an attempt.
pub struct Ended {
    /// What is to be settled.
    pub settlement: Box<Settlement>,
    /// The span that the settling belongs to, if the attempt is traced.
    pub span: Option<Settling>,
}

impl Attempter {
    /// Returns an attempter with these routes, this content and this policy.
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
            gates: RouteGates::default(),
            tracing: Tracing::off(),
            metrics: Metrics::default(),
            ids: None,
        }
    }

    /// Returns the same attempter, which lets senders name jobs in the log by these hashes.
    #[must_use]
    pub fn with_ids(self, ids: IdHasher) -> Self {
        let ids = Some(ids);
        Self { ids, ..self }
    }

    /// Returns the same attempter, which records its attempts in `metrics`.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Returns the same attempter, which sends nothing on routes whose gates are closed.
    #[must_use]
    pub(crate) fn with_gates(self, gates: RouteGates) -> Self {
        Self { gates, ..self }
    }

    /// Returns the same attempter, which records its attempts with `tracing`.
    #[must_use]
    pub fn with_tracing(self, tracing: Tracing) -> Self {
        Self { tracing, ..self }
    }

    /// Tries a leased job and returns its settlement. It never fails, because a failed delivery is
    /// an outcome too.
    ///
    /// If `cancel` is cancelled, the attempt stops at the message that is being sent. If the peer
    /// may already have that message, stopping takes some seconds. The settlement then contains
    /// what happened until the stop. It is `None` if nothing happened, and the job can be given
    /// back untried. When the lease is over, the attempt cancels `cancel` itself and sends nothing
    /// more.
    pub async fn attempt(
        &self,
        leased: LeasedJob,
        cancel: &CancellationToken,
        lease_end: &LeaseEnd,
    ) -> Option<Ended> {
        let (began, mut tried) = (Instant::now(), None);
        let number = leased.job.head.attempt + 1;
        let span = self.start_span(&leased);
        let settlement = span
            .around(self.try_messages(leased, cancel, lease_end, &span, &mut tried))
            .await;
        let took = began.elapsed();
        if let (Some(Tried { outcome, sender }), Some(settlement)) = (&tried, &settlement) {
            self.metrics.attempt(&Attempted {
                outcome,
                number,
                sender,
                destination: settlement.lease.destination.as_str(),
                took,
                span: span.context(),
            });
        }
        let settling = span.settling();
        span.end(took);
        settlement.map(|settlement| Ended {
            settlement,
            span: settling,
        })
    }

    /// Starts the span of an attempt.
    fn start_span(&self, leased: &LeasedJob) -> AttemptSpan {
        if self.tracing.is_off() {
            return AttemptSpan::default();
        }
        let job = &leased.job;
        let messages = || {
            job.messages
                .iter()
                .filter(|message| message.accepted.is_none())
        };
        let Some(first) = messages().next() else {
            return AttemptSpan::default();
        };
        let starting = Starting {
            job: &leased.lease.job,
            destination: job.head.destination.as_str(),
            number: job.head.attempt + 1,
            message: &first.id,
            previous: job.head.previous_span(),
            since_bounce: leased.claimed_at.since(first.bounced_at),
            late: leased.claimed_at.since(leased.lease.due),
        };
        let origins = messages().filter_map(|message| message.traceparent.as_deref());
        self.tracing.process(&starting, origins)
    }

    async fn try_messages(
        &self,
        leased: LeasedJob,
        cancel: &CancellationToken,
        lease_end: &LeaseEnd,
        span: &AttemptSpan,
        tried: &mut Option<Tried>,
    ) -> Option<Box<Settlement>> {
        let mut progress = Progress::new(leased, span.context());
        progress.confirm_expired();
        progress.drop_expired();
        if let Some(settlement) = self.end_by_age(&mut progress, span) {
            return Some(settlement);
        }
        while let Some(message) = progress.waiting.front() {
            let Some((outcome, transcript)) = self
                .send_unless_cancelled(&progress, message, cancel, lease_end, span)
                .await
            else {
                return progress.interrupt(self.clock.now());
            };
            let decision = self.judge(&progress, message, &outcome);
            // The outcome of a cancelled attempt does not show that a trouble has begun or ended.
            if !cancel.is_cancelled() {
                self.log_trouble(message, &outcome);
            }
            let sender = self.routes.kind(message.route.as_deref());
            let verdict = note_judged(span, &outcome, &decision);
            self.metrics.verdict(verdict);
            progress.dead_route = self.dead_route(message, &outcome);
            progress.note(&outcome, transcript);
            progress.feedback = feedback(&outcome, &decision);
            let settlement = progress.conclude(&outcome, &decision, self.clock.now());
            *tried = Some(Tried { outcome, sender });
            if settlement.is_some() {
                return settlement;
            }
        }
        Some(progress.end(self.clock.now()))
    }

    /// Ends a job that is past its maximum age, as if its last attempt had failed. Nothing is sent.
    /// If the last attempt did not count, because the fault was ours, the messages are given up and
    /// the address keeps its standing. Returns `None` if the job is not that old.
    fn end_by_age(&self, progress: &mut Progress, span: &AttemptSpan) -> Option<Box<Settlement>> {
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
        progress.try_nothing();
        while let Some(message) = progress.waiting.front() {
            let mut decision = self.judge(progress, message, &outcome);
            if held {
                decision.verdict = Verdict::DropAll;
            }
            self.metrics.verdict(note_judged(span, &outcome, &decision));
            if let Some(settlement) = progress.conclude(&outcome, &decision, self.clock.now()) {
                return Some(settlement);
            }
        }
        None
    }

    /// Sends a message, or stops if the attempt is cancelled. Returns `None` if the message was not
    /// sent. If it was completely sent before the cancellation, the peer may have it. Then this
    /// waits a little longer for the answer. If none arrives, the outcome is
    /// [`FaultKind::Unanswered`].
    async fn send_unless_cancelled(
        &self,
        progress: &Progress,
        message: &Message,
        cancel: &CancellationToken,
        lease_end: &LeaseEnd,
        span: &AttemptSpan,
    ) -> Option<(Outcome, Option<Transcript>)> {
        let in_doubt = InDoubt::with_lease_end(cancel.clone(), lease_end.clone());
        let mut sending =
            pin!(self.send_when_files_are_free(progress, message, in_doubt.clone(), span));
        if let Some(ended) = cancel.run_until_cancelled(&mut sending).await {
            return Some(ended);
        }
        if !in_doubt.is_in_doubt() {
            return None;
        }
        let unanswered = || {
            let text = "cancelled before the answer".to_owned();
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

    /// Sends a message. If this process may open no more files, it tries again after a pause,
    /// because file descriptors become free as other attempts end. An attempt that waits keeps its
    /// permit, so a worker that is short of file descriptors slows down.
    async fn send_when_files_are_free(
        &self,
        progress: &Progress,
        message: &Message,
        in_doubt: InDoubt,
        span: &AttemptSpan,
    ) -> (Outcome, Option<Transcript>) {
        let mut pause = SHORTAGE_PAUSE;
        loop {
            let sent = self.send(progress, message, in_doubt.clone(), span).await;
            if !is_shortage(&sent.0) || pause > SHORTAGE_PAUSE_MAX {
                return sent;
            }
            self.log_trouble(message, &sent.0);
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn send(
        &self,
        progress: &Progress,
        message: &Message,
        in_doubt: InDoubt,
        span: &AttemptSpan,
    ) -> (Outcome, Option<Transcript>) {
        let ours = |kind, text| (Outcome::Unreachable(Fault::ours(kind, text)), None);
        let Some(sender) = self.routes.sender(message.route.as_deref()) else {
            let route = message.route.as_deref().unwrap_or("the default one");
            if self.routes.is_first_report_of_missing(route) {
                tracing::error!(
                    route,
                    "messages name a route that this worker does not have, and wait; \
                     add such a [[route]]"
                );
            }
            return ours(
                FaultKind::Local,
                format!("this worker has no route {route}"),
            );
        };
        let name = self.routes.name(message.route.as_deref());
        if let Some(fault) = self.gates.closed_by(name) {
            return (Outcome::Unreachable(fault), None);
        }
        let content = match message.content.as_ref().filter(|_| sender.wants_content()) {
            None => None,
            // Boxed, because otherwise the future that reads content would make every attempt's
            // future some kilobytes larger.
            Some(content) => {
                let began = span.now();
                let read = Box::pin(self.contents.read(content)).await;
                span.content(began, read.as_ref().err().map(|_| "unreadable"));
                match read {
                    Ok(content) => Some(content),
                    Err(ContentError::Missing(why)) => {
                        return (Outcome::Unreadable(why.to_owned()), None);
                    }
                    Err(ContentError::Unread(fault)) => return (Outcome::Unreachable(fault), None),
                }
            }
        };
        let attempt = Attempt {
            job: progress.leased.lease.job.clone(),
            job_hash: self
                .ids
                .as_ref()
                .map(|ids| ids.hash(&progress.leased.lease.job)),
            destination: progress.leased.job.head.destination.clone(),
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
            traceparent: span
                .context()
                .map(|context| context.text())
                .or_else(|| message.traceparent.clone()),
            metadata: message.metadata.clone(),
            content,
        };
        // Checked here for all senders. A sender that connects first checks again once connected.
        attempt.in_doubt.may_send().await;
        let began = span.now();
        let (outcome, exchange) = sender.send_with_exchange(&attempt).await;
        self.gates.note(name, &outcome, exchange.as_ref());
        let transcript = match exchange {
            Some(Exchange::Smtp(transcript)) => {
                log_transcript(&transcript, &progress.leased.job.head.destination);
                self.metrics.conversation(&transcript);
                span.smtp(began, &transcript, &outcome);
                Some(transcript)
            }
            Some(Exchange::Http(exchange)) => {
                span.http(began, &exchange, &outcome);
                None
            }
            Some(Exchange::Program(run)) => {
                span.command(began, &run, &outcome);
                None
            }
            None => None,
        };
        (outcome, transcript)
    }

    /// Logs when trouble of our own begins or ends on the message's route. If the worker does not
    /// have that route, [`send`](Self::send) has logged it.
    fn log_trouble(&self, message: &Message, outcome: &Outcome) {
        let route = message.route.as_deref();
        let name = self.routes.sender(route).map(|_| self.routes.name(route));
        if let Some(name) = name {
            self.troubles.log(name, outcome);
        }
        let is_ours = match outcome {
            Outcome::Unreachable(fault) => fault.side == Side::Ours,
            Outcome::Unreadable(_) => true,
            _ => false,
        };
        if is_ours {
            self.metrics
                .own_trouble(name.unwrap_or(MISSING_ROUTE), outcome);
        }
    }

    /// Returns the message's route if this outcome shows that the route's peer was not reached.
    fn dead_route(&self, message: &Message, outcome: &Outcome) -> Option<String> {
        let name = self.routes.name(message.route.as_deref());
        self.gates
            .waits_for_peer(name, outcome)
            .then(|| name.to_owned())
    }

    fn judge(&self, progress: &Progress, message: &Message, outcome: &Outcome) -> Decision<'_> {
        let LeasedJob {
            job,
            lease,
            last_delivery_there,
            ..
        } = &progress.leased;
        let facts = AttemptFacts {
            job: &lease.job,
            account: job.id.account.as_str(),
            stream: message.stream.as_deref(),
            destination: job.head.destination.as_str(),
            attempt: progress.step,
            created: job.head.created,
            last_delivery_there: *last_delivery_there,
            confirm: self.routes.confirm(message.route.as_deref()),
        };
        decide(
            &facts,
            outcome,
            &self.table,
            self.clock.now().max(progress.leased.claimed_at),
        )
    }
}

/// Logs the transcript of an SMTP conversation. It contains no reply, which could quote an address.
fn log_transcript(transcript: &Transcript, destination: &Destination) {
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
    if *unknown && let Some(left_out) = admit_outage("messages without an answer") {
        tracing::warn!(
            %destination, host, address, ms, left_out,
            "a message was sent whole and got no answer"
        );
    }
    tracing::debug!(
        %destination, %phase, host, address, tls, reused, unknown, ms,
        "an attempt over SMTP has ended"
    );
}

/// Records in the span of an attempt what the policy made of a message's outcome. Returns the
/// verdict as a word.
fn note_judged(span: &AttemptSpan, outcome: &Outcome, decision: &Decision<'_>) -> &'static str {
    let is_ours = matches!(outcome, Outcome::Unreachable(fault) if fault.side == Side::Ours);
    let (verdict, is_given_up) = match decision.verdict {
        Verdict::Close => ("close", false),
        Verdict::RetryAfter(_) => ("retry", false),
        Verdict::Confirm(_) => ("confirm", false),
        Verdict::Hold(_) => ("hold", false),
        Verdict::DropMessage => ("drop_message", true),
        Verdict::DropAll => ("drop_all", true),
        Verdict::Retire { .. } => ("retire", true),
    };
    let judged = Judged {
        outcome,
        verdict,
        row: decision.row.map(|row| row.name.as_str()),
        attempts_max: decision
            .row
            .and_then(|row| row.delays.len().try_into().ok()),
        is_error: is_given_up || is_ours,
    };
    span.judge(&judged, |reply| fingerprint(&reply.text));
    verdict
}

/// Whether nothing was sent because this process may open no more files for now.
fn is_shortage(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Unreachable(fault) => fault.is_shortage() && fault.kind != FaultKind::Unanswered,
        _ => false,
    }
}

/// Returns what an outcome shows about the destination. Trouble of our own shows nothing.
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
