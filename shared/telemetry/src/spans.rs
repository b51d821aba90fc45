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

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer as _,
};
use opentelemetry::{Context, KeyValue, StringValue};
use opentelemetry_sdk::trace::{SdkTracer, Span};

mod attempt;
mod links;
mod maker;

use crate::ids::IdHasher;
use crate::names::{otel, own};
use crate::settings::{PARENT_WITHIN, Settings, TraceStyle};
use crate::traceparent;
pub use attempt::{AttemptSpan, Judged, Settling};
use links::{link, origin_links};
use maker::{SpanMaker, text};

/// Makes the spans of a process. If it is off, it does nothing and costs nothing. Cloning it is
/// cheap.
#[derive(Clone, Debug, Default)]
pub struct Tracing(Option<Arc<SpanMaker>>);

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

/// The span of one arriving message.
#[derive(Debug, Default)]
pub struct SendSpan(Option<Span>);

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
        Self(Some(Arc::new(SpanMaker {
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
        let Some(maker) = &self.0 else {
            return SendSpan(None);
        };
        let parent = arriving.traceparent.and_then(traceparent::read);
        let parent = parent.map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(parent)
        });
        let builder = SpanBuilder::from_name("send").with_kind(SpanKind::Producer);
        let mut span = maker.tracer.build_with_context(builder, &parent);
        // The hashes cost something, so they are not made for a span that is not sent.
        if span.is_recording() {
            span.set_attributes(maker.common("send", maker.ids.hash(arriving.job).into()));
            span.set_attribute(maker.message_id(arriving.message));
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
        let Some(maker) = &self.0 else { return };
        let mut attributes = vec![
            KeyValue::new(otel::SYSTEM, "redeliver"),
            KeyValue::new(otel::OPERATION_NAME, "claim"),
            KeyValue::new(otel::OPERATION_TYPE, "receive"),
            KeyValue::new(otel::DESTINATION_NAME, maker.queue.clone()),
        ];
        attributes.push(KeyValue::new(otel::BATCH_COUNT, jobs as i64));
        attributes.push(KeyValue::new(own::SHARD, i64::from(shard)));
        let builder = SpanBuilder::from_name("receive")
            .with_kind(SpanKind::Client)
            .with_start_time(began)
            .with_links(origin_links(origins.filter_map(traceparent::read)))
            .with_attributes(attributes);
        maker
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
        let Some(maker) = &self.0 else {
            return AttemptSpan::default();
        };
        let mut links = origin_links(origins.filter_map(traceparent::read));
        let parent = match links.first() {
            Some(origin)
                if maker.style == TraceStyle::Parent && starting.since_bounce <= PARENT_WITHIN =>
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
        let mut span = maker.tracer.build_with_context(builder, &parent);
        if !span.is_recording() {
            return AttemptSpan::default();
        }
        let conversation: StringValue = maker.ids.hash(starting.job).into();
        let mut attributes = maker.common("process", conversation.clone());
        attributes.reserve(4);
        attributes.push(maker.message_id(starting.message));
        attributes.push(text(own::DESTINATION, starting.destination));
        attributes.push(KeyValue::new(
            own::ATTEMPT_NUMBER,
            i64::from(starting.number),
        ));
        attributes.push(KeyValue::new(own::LATE, starting.late.as_secs_f64()));
        span.set_attributes(attributes);
        AttemptSpan::begun(maker.clone(), span, conversation)
    }

    /// Records that the end of an attempt was written to the store.
    pub fn settled(&self, settling: &Settling, began: SystemTime, ended: SystemTime) {
        let Some(maker) = &self.0 else { return };
        let attributes = maker.common("settle", settling.conversation.clone());
        let builder = SpanBuilder::from_name("settle")
            .with_kind(SpanKind::Client)
            .with_start_time(began)
            .with_attributes(attributes);
        let parent = Context::new().with_remote_span_context(settling.context.clone());
        maker
            .tracer
            .build_with_context(builder, &parent)
            .end_with_timestamp(ended);
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

#[cfg(test)]
mod tests;
