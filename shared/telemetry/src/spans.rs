//! The spans of a retry chain. A chain lasts for up to two weeks, so it is not one trace: each
//! attempt is a trace of its own, and links to the trace that the message came from and to the
//! attempt before. `messaging.message.conversation_id` is the same on all spans of a job.
//!
//! ```text
//! platform's trace ── send (intake)
//!                       ▲ origin    ▲ origin
//!                     process 1 ◀── process 2 ◀── …         previous
//!                       content, dns, smtp, settle
//! ```

use std::borrow::Cow;
use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use domain::outcome::{FaultKind, Outcome};
use domain::reply::Reply;
use domain::transcript::{Phase, Transcript};
use opentelemetry::trace::{
    FutureExt, Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt,
    Tracer as _,
};
use opentelemetry::{Context, KeyValue, StringValue};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use crate::ids::IdHasher;
use crate::names::{otel, own};
use crate::settings::{PARENT_WITHIN, Settings, TraceStyle};
use crate::traceparent;

/// How many messages of a job, or of a claim, a span links to.
const ORIGINS_MAX: usize = 8;

/// Makes the spans of a process. If it is off, it does nothing and costs nothing. Cloning it is
/// cheap.
#[derive(Clone, Debug, Default)]
pub struct Tracing(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    tracer: SdkTracer,
    ids: IdHasher,
    queue: StringValue,
    style: TraceStyle,
    shows_message_ids: bool,
    shows_reply_text: bool,
}

/// A message that intake accepts.
#[derive(Clone, Copy, Debug)]
pub struct Arriving<'a> {
    /// The full id of its job.
    pub job: &'a str,
    /// The destination of the job.
    pub destination: &'a str,
    /// Its id.
    pub message: &'a str,
    /// The platform's trace (W3C Trace Context).
    pub traceparent: Option<&'a str>,
}

/// An attempt that begins.
#[derive(Clone, Copy, Debug)]
pub struct Starting<'a> {
    /// The full id of its job.
    pub job: &'a str,
    /// The destination.
    pub destination: &'a str,
    /// Its number. The platform's own attempt was 0.
    pub number: u32,
    /// The id of the message that is tried first.
    pub message: &'a str,
    /// The span of the attempt before, as W3C Trace Context.
    pub previous: Option<&'a str>,
    /// How long ago that message bounced.
    pub since_bounce: Duration,
    /// How long the job has been due.
    pub late: Duration,
}

/// How one message of an attempt ended.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// What the sender saw.
    pub outcome: &'a Outcome,
    /// What the policy decided, as a word.
    pub verdict: &'static str,
    /// The policy's row, if one applied.
    pub row: Option<&'a str>,
    /// How many attempts that row's schedule has.
    pub attempts_max: Option<u32>,
    /// Whether the messages are given up, or the fault is ours. An expected deferral is no error.
    pub is_error: bool,
}

/// The span of one arriving message.
#[derive(Debug, Default)]
pub struct SendSpan(Option<Span>);

/// The span of one attempt. Its parts are its children. It is empty if the attempt is not sent to
/// the collector. If it is dropped before its [`end`](Self::end), the attempt has crashed.
#[derive(Debug, Default)]
pub struct AttemptSpan(Option<Live>);

#[derive(Debug)]
struct Live {
    tracing: Arc<Inner>,
    context: Context,
    conversation: StringValue,
    /// What the policy made of the last outcome. A span cannot replace an attribute, so these are
    /// added when it ends.
    judged: Mutex<Vec<KeyValue>>,
    has_ended: bool,
}

/// Which span a settlement belongs to.
#[derive(Clone, Debug)]
pub struct Settling {
    context: SpanContext,
    conversation: StringValue,
}

impl Tracing {
    /// Makes no spans.
    pub fn off() -> Self {
        Self(None)
    }

    /// Whether no spans are made.
    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn new(tracer: SdkTracer, settings: &Settings, queue: &str, ids: IdHasher) -> Self {
        Self(Some(Arc::new(Inner {
            tracer,
            ids,
            queue: queue.to_owned().into(),
            style: settings.trace_style,
            shows_message_ids: settings.message_ids,
            shows_reply_text: settings.reply_text,
        })))
    }

    /// Begins the span of a message that intake accepts. It is a child of the platform's span, if
    /// there is one.
    pub fn send(&self, arriving: &Arriving<'_>) -> SendSpan {
        let Some(inner) = &self.0 else {
            return SendSpan(None);
        };
        let parent = arriving.traceparent.and_then(traceparent::read);
        let parent = parent.map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(parent)
        });
        let builder = SpanBuilder::from_name("send").with_kind(SpanKind::Producer);
        let mut span = inner.tracer.build_with_context(builder, &parent);
        // The hashes cost something, so they are not made for a span that is not sent.
        if span.is_recording() {
            span.set_attributes(inner.common("send", "send", inner.ids.hash(arriving.job).into()));
            span.set_attribute(inner.message_id(arriving.message));
            span.set_attribute(text(own::DESTINATION, arriving.destination));
        }
        SendSpan(Some(span))
    }

    /// Records a claim that returned jobs, with the traces of their messages.
    pub fn received<'m>(
        &self,
        began: SystemTime,
        shard: u16,
        jobs: usize,
        origins: impl Iterator<Item = &'m str>,
    ) {
        let Some(inner) = &self.0 else { return };
        let mut attributes = vec![
            KeyValue::new(otel::SYSTEM, "redeliver"),
            KeyValue::new(otel::OPERATION_NAME, "claim"),
            KeyValue::new(otel::OPERATION_TYPE, "receive"),
            KeyValue::new(otel::DESTINATION_NAME, inner.queue.clone()),
        ];
        attributes.push(KeyValue::new(otel::BATCH_COUNT, jobs as i64));
        attributes.push(KeyValue::new(own::SHARD, i64::from(shard)));
        let builder = SpanBuilder::from_name("receive")
            .with_kind(SpanKind::Client)
            .with_start_time(began)
            .with_links(origin_links(origins.filter_map(traceparent::read)))
            .with_attributes(attributes);
        inner
            .tracer
            .build_with_context(builder, &Context::new())
            .end();
    }

    /// Begins the span of an attempt. `origins` are the traces of the messages that wait in the
    /// job. The attempt is sent to the collector if one of them is.
    pub fn process<'m>(
        &self,
        starting: &Starting<'_>,
        origins: impl Iterator<Item = &'m str>,
    ) -> AttemptSpan {
        let Some(inner) = &self.0 else {
            return AttemptSpan(None);
        };
        let mut links = origin_links(origins.filter_map(traceparent::read));
        let parent = match links.first() {
            Some(origin)
                if inner.style == TraceStyle::Parent && starting.since_bounce <= PARENT_WITHIN =>
            {
                Context::new().with_remote_span_context(origin.span_context.clone())
            }
            _ => Context::new(),
        };
        if let Some(previous) = starting.previous.and_then(traceparent::read) {
            links.push(link(previous, "previous"));
        }
        let builder = SpanBuilder::from_name("process")
            .with_kind(SpanKind::Consumer)
            .with_links(links);
        let mut span = inner.tracer.build_with_context(builder, &parent);
        if !span.is_recording() {
            return AttemptSpan(None);
        }
        let conversation: StringValue = inner.ids.hash(starting.job).into();
        let mut attributes = inner.common("process", "process", conversation.clone());
        attributes.reserve(4);
        attributes.push(inner.message_id(starting.message));
        attributes.push(text(own::DESTINATION, starting.destination));
        attributes.push(KeyValue::new(
            own::ATTEMPT_NUMBER,
            i64::from(starting.number),
        ));
        attributes.push(KeyValue::new(own::LATE, starting.late.as_secs_f64()));
        span.set_attributes(attributes);
        AttemptSpan(Some(Live {
            tracing: inner.clone(),
            context: Context::new().with_span(span),
            conversation,
            judged: Mutex::default(),
            has_ended: false,
        }))
    }

    /// Records that the end of an attempt was written to the store.
    pub fn settled(&self, settling: &Settling, began: SystemTime, ended: SystemTime) {
        let Some(inner) = &self.0 else { return };
        let attributes = inner.common("settle", "settle", settling.conversation.clone());
        let builder = SpanBuilder::from_name("settle")
            .with_kind(SpanKind::Client)
            .with_start_time(began)
            .with_attributes(attributes);
        let parent = Context::new().with_remote_span_context(settling.context.clone());
        inner
            .tracer
            .build_with_context(builder, &parent)
            .end_with_timestamp(ended);
    }
}

impl Inner {
    /// Returns the attributes that all spans about a job have.
    fn common(
        &self,
        name: &'static str,
        kind: &'static str,
        conversation: StringValue,
    ) -> Vec<KeyValue> {
        vec![
            KeyValue::new(otel::SYSTEM, "redeliver"),
            KeyValue::new(otel::OPERATION_NAME, name),
            KeyValue::new(otel::OPERATION_TYPE, kind),
            KeyValue::new(otel::DESTINATION_NAME, self.queue.clone()),
            KeyValue::new(otel::CONVERSATION_ID, conversation),
        ]
    }

    fn message_id(&self, id: &str) -> KeyValue {
        let id = if self.shows_message_ids {
            id.to_owned()
        } else {
            self.ids.hash(id)
        };
        KeyValue::new(otel::MESSAGE_ID, id)
    }

    fn reply(&self, reply: &Reply, attributes: &mut Vec<KeyValue>) {
        if let Some(code) = reply.code {
            attributes.push(KeyValue::new(own::REPLY_CODE, i64::from(code)));
        }
        if let Some(status) = reply.status {
            attributes.push(KeyValue::new(own::REPLY_ENHANCED_CODE, status.to_string()));
        }
    }
}

impl SendSpan {
    /// Returns the context of this span, to be stored with the message (W3C Trace Context). `None`
    /// if nothing is traced, or no longer.
    pub fn traceparent(&self) -> Option<String> {
        let context = self.0.as_ref()?.span_context();
        context.is_valid().then(|| traceparent::write(context))
    }

    /// Ends the span with what the bounce led to.
    pub fn end(self, answer: &'static str) {
        if let Some(mut span) = self.0 {
            span.set_attribute(KeyValue::new(own::ANSWER, answer));
            span.end();
        }
    }

    /// Ends the span of a message that the store did not take.
    pub fn fail(self) {
        if let Some(mut span) = self.0 {
            span.set_attribute(KeyValue::new(otel::ERROR_TYPE, "store"));
            span.set_status(Status::error("the store did not take the bounce"));
            span.end();
        }
    }
}

impl AttemptSpan {
    /// Returns the context of this span, to be stored with the job (W3C Trace Context). `None` if
    /// it is not sent.
    pub fn traceparent(&self) -> Option<String> {
        let live = self.sampled()?;
        Some(traceparent::write(live.context.span().span_context()))
    }

    /// Runs the attempt. The lines that it logs belong to this span.
    pub async fn around<T>(&self, attempt: impl Future<Output = T>) -> T {
        match self.sampled() {
            None => attempt.await,
            Some(live) => attempt.with_context(live.context.clone()).await,
        }
    }

    /// Returns what the span of the settlement needs. `None` if it is not sent.
    pub fn settling(&self) -> Option<Settling> {
        self.sampled().map(|live| Settling {
            context: live.context.span().span_context().clone(),
            conversation: live.conversation.clone(),
        })
    }

    /// Returns the time now, for the parts of this attempt. `None` if the attempt is not sent, so
    /// no clock is read.
    pub fn now(&self) -> Option<SystemTime> {
        self.sampled().map(|_| SystemTime::now())
    }

    fn sampled(&self) -> Option<&Live> {
        self.0.as_ref()
    }

    /// Records that a message's content was read since `began`, or could not be.
    pub fn content(&self, began: Option<SystemTime>, error: Option<&'static str>) {
        let (Some(live), Some(began)) = (self.sampled(), began) else {
            return;
        };
        live.child(
            "content",
            "content",
            began,
            SystemTime::now(),
            Vec::new(),
            error,
        );
    }

    /// Records the network part of trying a message, which began at `began` and has just ended: the
    /// lookup of the hosts, if there was one, and the SMTP conversation.
    pub fn smtp(&self, began: Option<SystemTime>, transcript: &Transcript, outcome: &Outcome) {
        let (Some(live), Some(began)) = (self.sampled(), began) else {
            return;
        };
        let ended = SystemTime::now();
        let lookups = || {
            let took = transcript.took_ms.iter();
            took.take_while(|(phase, _)| *phase == Phase::Lookup)
        };
        let looked_up = Duration::from_millis(lookups().map(|(_, ms)| ms).sum());
        let error = error_type(outcome);
        // The conversation has not begun if nothing but the lookup has.
        let is_lookup = transcript.phase == Phase::Lookup;
        let connected = (began + looked_up).min(ended);
        if is_lookup || lookups().next().is_some() {
            let end = if is_lookup { ended } else { connected };
            let error = error.filter(|_| is_lookup);
            live.child("dns", "dns", began, end, Vec::new(), error);
        }
        if is_lookup {
            return;
        }
        let mut attributes = Vec::with_capacity(16);
        if let Ok(address) = transcript.address.parse::<SocketAddr>() {
            let host = if transcript.host.is_empty() {
                address.ip().to_string()
            } else {
                transcript.host.clone()
            };
            attributes.push(KeyValue::new(otel::SERVER_ADDRESS, host));
            attributes.push(KeyValue::new(otel::SERVER_PORT, i64::from(address.port())));
        }
        if let Some(tls) = &transcript.tls {
            attributes.push(text(own::TLS, tls));
        }
        attributes.push(KeyValue::new(own::PHASE, transcript.phase.as_str()));
        attributes.push(KeyValue::new(own::REUSED, transcript.reused));
        for (phase, ms) in sums(&transcript.took_ms) {
            let key = own::phase_duration(phase.as_str());
            attributes.push(KeyValue::new(key, ms as f64 / 1_000.0));
        }
        if let Some(reply) = reply_of(outcome) {
            live.tracing.reply(reply, &mut attributes);
        }
        live.child("smtp", "smtp", connected, ended, attributes, error);
    }

    /// Records that a message was handed to a sender without a conversation of its own, for example
    /// an HTTP service or a program.
    pub fn handed_over(&self, began: Option<SystemTime>, sender: &'static str, outcome: &Outcome) {
        let (Some(live), Some(began)) = (self.sampled(), began) else {
            return;
        };
        let mut attributes = Vec::new();
        if let Some(reply) = reply_of(outcome) {
            live.tracing.reply(reply, &mut attributes);
        }
        let error = error_type(outcome);
        live.child(sender, sender, began, SystemTime::now(), attributes, error);
    }

    /// Records what the policy made of the last outcome. `reply_text` makes the fingerprint of a
    /// reply's text; it is called only if the settings allow it.
    pub fn judge(&self, judged: &Judged<'_>, reply_text: impl FnOnce(&Reply) -> String) {
        let Some(live) = self.sampled() else { return };
        let mut attributes = Vec::with_capacity(8);
        if let Some(reply) = reply_of(judged.outcome) {
            live.tracing.reply(reply, &mut attributes);
            if live.tracing.shows_reply_text {
                attributes.push(KeyValue::new(own::REPLY_TEXT, reply_text(reply)));
            }
        }
        attributes.push(KeyValue::new(own::VERDICT, judged.verdict));
        if let Some(row) = judged.row {
            attributes.push(text(own::POLICY_ROW, row));
        }
        if let Some(max) = judged.attempts_max {
            attributes.push(KeyValue::new(own::ATTEMPT_MAX, i64::from(max)));
        }
        if let Some(error) = error_type(judged.outcome) {
            attributes.push(KeyValue::new(otel::ERROR_TYPE, error));
            if judged.is_error {
                live.context.span().set_status(Status::error(error));
            }
        }
        *live.judged.lock().unwrap_or_else(PoisonError::into_inner) = attributes;
    }

    /// Ends the span.
    pub fn end(self) {
        if let Some(mut live) = self.0 {
            live.has_ended = true;
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let judged = self.judged.get_mut().map(mem::take).unwrap_or_default();
        let span = self.context.span();
        if self.has_ended {
            span.set_attributes(judged);
        } else {
            span.set_attribute(KeyValue::new(otel::ERROR_TYPE, "crashed"));
            span.set_status(Status::error("the attempt panicked or did not end"));
        }
        span.end();
    }
}

impl Live {
    fn child(
        &self,
        name: &'static str,
        kind: &'static str,
        began: SystemTime,
        ended: SystemTime,
        mut attributes: Vec<KeyValue>,
        error: Option<&'static str>,
    ) {
        attributes.push(KeyValue::new(otel::OPERATION_NAME, kind));
        attributes.push(KeyValue::new(
            otel::CONVERSATION_ID,
            self.conversation.clone(),
        ));
        if let Some(error) = error {
            attributes.push(KeyValue::new(otel::ERROR_TYPE, error));
        }
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Client)
            .with_start_time(began)
            .with_attributes(attributes);
        let mut span = self
            .tracing
            .tracer
            .build_with_context(builder, &self.context);
        if let Some(error) = error {
            span.set_status(Status::error(error));
        }
        span.end_with_timestamp(ended);
    }
}

/// Returns why an outcome is no success, as one of a few words. `None` if it is one.
pub fn error_type(outcome: &Outcome) -> Option<&'static str> {
    Some(match outcome {
        Outcome::Delivered(_) | Outcome::Accepted(_) => return None,
        Outcome::Deferred(_) => "deferred",
        Outcome::Refused(_) => "refused",
        Outcome::Unreadable(_) => "unreadable",
        Outcome::Unreachable(fault) => match fault.kind {
            FaultKind::Lookup => "lookup",
            FaultKind::Connect => "connect",
            FaultKind::Lost => "lost",
            FaultKind::Unanswered => "unanswered",
            FaultKind::NotSmtp => "not_smtp",
            FaultKind::Tls => "tls",
            FaultKind::Local => "local",
        },
    })
}

fn reply_of(outcome: &Outcome) -> Option<&Reply> {
    match outcome {
        Outcome::Delivered(reply)
        | Outcome::Accepted(reply)
        | Outcome::Deferred(reply)
        | Outcome::Refused(reply) => Some(reply),
        Outcome::Unreachable(_) | Outcome::Unreadable(_) => None,
    }
}

/// Adds up the durations of phases that ran more than once. The lookup has a span of its own.
fn sums(took_ms: &[(Phase, u64)]) -> Vec<(Phase, u64)> {
    let mut sums: Vec<(Phase, u64)> = Vec::with_capacity(took_ms.len());
    for (phase, ms) in took_ms.iter().filter(|(phase, _)| *phase != Phase::Lookup) {
        match sums.iter_mut().find(|(known, _)| known == phase) {
            Some((_, sum)) => *sum += ms,
            None => sums.push((*phase, *ms)),
        }
    }
    sums
}

/// Returns links to origins, each once. One that is sent to the collector comes first, because the
/// sampler follows the first link.
fn origin_links(origins: impl Iterator<Item = SpanContext>) -> Vec<Link> {
    let mut found: Vec<SpanContext> = Vec::new();
    for origin in origins {
        if found.contains(&origin) {
            continue;
        }
        if found.len() == ORIGINS_MAX && found[0].is_sampled() {
            break;
        }
        if found.len() == ORIGINS_MAX {
            if origin.is_sampled() {
                found[ORIGINS_MAX - 1] = origin;
            } else {
                continue;
            }
        } else {
            found.push(origin);
        }
        let last = found.len() - 1;
        if found[last].is_sampled() && !found[0].is_sampled() {
            found.swap(0, last);
        }
    }
    found
        .into_iter()
        .map(|origin| link(origin, "origin"))
        .collect()
}

fn link(context: SpanContext, what: &'static str) -> Link {
    Link::new(context, vec![KeyValue::new(own::LINK, what)], 0)
}

fn text(key: &'static str, value: &str) -> KeyValue {
    KeyValue::new(key, Cow::<'static, str>::Owned(value.to_owned()))
}

#[cfg(test)]
mod tests;
