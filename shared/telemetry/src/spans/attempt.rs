//! The span of one attempt, with its parts as children.

use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use domain::outcome::Outcome;
use domain::reply::Reply;
use domain::transcript::{Phase, Transcript};
use opentelemetry::trace::{
    FutureExt, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _,
};
use opentelemetry::{Context, KeyValue, StringValue};
use opentelemetry_sdk::trace::Span;

use super::maker::{SpanMaker, text};
use crate::names::{otel, own};
use crate::traceparent;
use crate::words::error_type;

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

/// The span of one attempt. Its parts are its children. It is empty if the attempt is not sent to
/// the collector. If it is dropped before its [`end`](Self::end), the attempt has crashed.
#[derive(Debug, Default)]
pub struct AttemptSpan(Option<Live>);

#[derive(Debug)]
struct Live {
    maker: Arc<SpanMaker>,
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
    pub(super) context: SpanContext,
    pub(super) conversation: StringValue,
}

impl AttemptSpan {
    /// Returns the span of an attempt that is sent to the collector. It has begun.
    pub(super) fn begun(maker: Arc<SpanMaker>, span: Span, conversation: StringValue) -> Self {
        Self(Some(Live {
            maker,
            context: Context::new().with_span(span),
            conversation,
            judged: Mutex::default(),
            has_ended: false,
        }))
    }

    /// Returns the context of this span, to be stored with the job (W3C Trace Context). `None` if
    /// it is not sent.
    pub fn traceparent(&self) -> Option<String> {
        let live = self.0.as_ref()?;
        Some(traceparent::write(live.context.span().span_context()))
    }

    /// Runs the attempt. The lines that it logs belong to this span.
    pub async fn around<T>(&self, attempt: impl Future<Output = T>) -> T {
        match &self.0 {
            None => attempt.await,
            Some(live) => attempt.with_context(live.context.clone()).await,
        }
    }

    /// Returns what the span of the settlement needs. `None` if it is not sent.
    pub fn settling(&self) -> Option<Settling> {
        self.0.as_ref().map(|live| Settling {
            context: live.context.span().span_context().clone(),
            conversation: live.conversation.clone(),
        })
    }

    /// Returns the time now, for the parts of this attempt. `None` if the attempt is not sent, so
    /// no clock is read.
    pub fn now(&self) -> Option<SystemTime> {
        self.0.as_ref().map(|_| SystemTime::now())
    }

    /// Records that a message's content was read since `began`, or could not be.
    pub fn content(&self, began: Option<SystemTime>, error: Option<&'static str>) {
        let (Some(live), Some(began)) = (&self.0, began) else {
            return;
        };
        live.child("content", began, SystemTime::now(), Vec::new(), error);
    }

    /// Records the network part of trying a message, which began at `began` and has just ended: the
    /// lookup of the hosts, if there was one, and the SMTP conversation.
    pub fn smtp(&self, began: Option<SystemTime>, transcript: &Transcript, outcome: &Outcome) {
        let (Some(live), Some(began)) = (&self.0, began) else {
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
            live.child("dns", began, end, Vec::new(), error);
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
        if let Some(reply) = outcome.reply() {
            live.maker.reply(reply, &mut attributes);
        }
        live.child("smtp", connected, ended, attributes, error);
    }

    /// Records that a message was handed to a sender without a conversation of its own, for example
    /// an HTTP service or a program.
    pub fn handed_over(&self, began: Option<SystemTime>, sender: &'static str, outcome: &Outcome) {
        let (Some(live), Some(began)) = (&self.0, began) else {
            return;
        };
        let mut attributes = Vec::new();
        if let Some(reply) = outcome.reply() {
            live.maker.reply(reply, &mut attributes);
        }
        let error = error_type(outcome);
        live.child(sender, began, SystemTime::now(), attributes, error);
    }

    /// Records what the policy made of the last outcome. `reply_text` makes the fingerprint of a
    /// reply's text; it is called only if the settings allow it.
    pub fn judge(&self, judged: &Judged<'_>, reply_text: impl FnOnce(&Reply) -> String) {
        let Some(live) = &self.0 else { return };
        let mut attributes = Vec::with_capacity(8);
        if let Some(reply) = judged.outcome.reply() {
            live.maker.reply(reply, &mut attributes);
            if live.maker.shows_reply_text {
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
        began: SystemTime,
        ended: SystemTime,
        mut attributes: Vec<KeyValue>,
        error: Option<&'static str>,
    ) {
        attributes.push(KeyValue::new(otel::OPERATION_NAME, name));
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
        let mut span = self.maker.tracer.build_with_context(builder, &self.context);
        if let Some(error) = error {
            span.set_status(Status::error(error));
        }
        span.end_with_timestamp(ended);
    }
}

/// Adds up the durations of phases that ran more than once. The lookup has a span of its own.
pub(super) fn sums(took_ms: &[(Phase, u64)]) -> Vec<(Phase, u64)> {
    let mut sums: Vec<(Phase, u64)> = Vec::with_capacity(took_ms.len());
    for (phase, ms) in took_ms.iter().filter(|(phase, _)| *phase != Phase::Lookup) {
        match sums.iter_mut().find(|(known, _)| known == phase) {
            Some((_, sum)) => *sum += ms,
            None => sums.push((*phase, *ms)),
        }
    }
    sums
}
