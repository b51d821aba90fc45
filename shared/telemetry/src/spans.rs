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

mod attempt;
mod links;
mod maker;
mod record;

use crate::ids::IdHasher;
use crate::names::{otel, own};
use crate::protobuf::Value;
use crate::queue::SpanQueue;
use crate::settings::{PARENT_WITHIN, Settings, TraceStyle};
use crate::traceparent::TraceContext;
pub use attempt::{AttemptSpan, Judged, Settling};
use links::linked_origins;
use maker::{OpenSpan, SpanMaker};
use record::Parent;

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

/// Why the end of an attempt was not written to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleError {
    /// The lease had run out, so another worker may have the job.
    Stale,
    /// The store refused it, or did not answer until the worker ended.
    Store,
}

/// The span of one arriving message.
#[derive(Debug, Default)]
pub struct SendSpan {
    context: Option<TraceContext>,
    /// `None` if the span is not sent.
    open: Option<OpenSpan>,
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

    /// `queue_name` is the name of the queue in Redis.
    pub(crate) fn new(
        queue: Arc<SpanQueue>,
        settings: &Settings,
        queue_name: &str,
        ids: IdHasher,
    ) -> Self {
        let maker = SpanMaker::new(queue, settings, queue_name, ids);
        Self(Some(Arc::new(maker)))
    }

    /// Returns what makes spans, unless nothing is sent, or no longer.
    fn maker(&self) -> Option<&Arc<SpanMaker>> {
        self.0.as_ref().filter(|maker| !maker.queue.is_closed())
    }

    /// Begins the span of a message that intake accepts. It is a child of the platform's span, if
    /// there is one.
    pub fn send(&self, arriving: &Arriving<'_>) -> SendSpan {
        let Some(maker) = self.maker() else {
            return SendSpan::default();
        };
        let parent = arriving.traceparent.and_then(TraceContext::parse);
        let parent = parent.map_or(Parent::Root, Parent::Remote);
        let context = maker.context(parent, None);
        let open = context.is_sampled.then(|| {
            let mut span = maker.send.begin(&context, parent);
            span.start(SystemTime::now());
            let job = Value::Hash(maker.ids.number(arriving.job));
            span.attribute(otel::CONVERSATION_ID, job);
            maker.message_id(arriving.message, &mut span);
            span.text(own::DESTINATION, arriving.destination);
            OpenSpan::new(maker.clone(), span)
        });
        SendSpan {
            context: Some(context),
            open,
        }
    }

    /// Records a claim that returned jobs, with the traces of their messages.
    pub fn received<'m>(
        &self,
        began: SystemTime,
        shard: u16,
        jobs: usize,
        origins: impl Iterator<Item = &'m str>,
    ) {
        let Some(maker) = self.maker() else { return };
        let origins = linked_origins(origins.filter_map(TraceContext::parse));
        let context = maker.context(Parent::Root, origins.first());
        if !context.is_sampled {
            return;
        }
        let mut span = maker.receive.begin(&context, Parent::Root);
        span.start(began);
        span.int(otel::BATCH_COUNT, jobs as i64);
        span.int(own::SHARD, shard);
        for origin in &origins {
            span.link(origin, "origin");
        }
        span.end(SystemTime::now());
        maker.queue.push(span.as_bytes());
    }

    /// Begins the span of an attempt. `origins` are the traces of the messages that wait in the
    /// job. The attempt is sent to the collector if one of them is.
    pub fn process<'m>(
        &self,
        starting: &Starting<'_>,
        origins: impl Iterator<Item = &'m str>,
    ) -> AttemptSpan {
        let Some(maker) = self.maker() else {
            return AttemptSpan::default();
        };
        let origins = linked_origins(origins.filter_map(TraceContext::parse));
        let is_early = starting.since_bounce <= PARENT_WITHIN;
        let parent = match origins.first() {
            Some(origin) if maker.style == TraceStyle::Parent && is_early => {
                Parent::Remote(*origin)
            }
            _ => Parent::Root,
        };
        let previous = starting.previous.and_then(TraceContext::parse);
        let context = maker.context(parent, origins.first().or(previous.as_ref()));
        if !context.is_sampled {
            return AttemptSpan::default();
        }
        let began = SystemTime::now();
        let mut span = maker.process.begin(&context, parent);
        span.start(began);
        let conversation = maker.ids.number(starting.job);
        span.attribute(otel::CONVERSATION_ID, Value::Hash(conversation));
        maker.message_id(starting.message, &mut span);
        span.text(own::DESTINATION, starting.destination);
        span.int(own::ATTEMPT_NUMBER, starting.number);
        span.attribute(own::LATE, Value::Float(starting.late.as_secs_f64()));
        for origin in &origins {
            span.link(origin, "origin");
        }
        if let Some(previous) = &previous {
            span.link(previous, "previous");
        }
        let open = OpenSpan::new(maker.clone(), span);
        AttemptSpan::begun(open, context, conversation, began)
    }

    /// Records that the ends of attempts were written to the store in one call, or could not be.
    pub fn settled(
        &self,
        attempts: impl Iterator<Item = (Settling, Option<SettleError>)>,
        began: SystemTime,
        ended: SystemTime,
    ) {
        let Some(maker) = self.maker() else { return };
        let mut shared = maker.settle.clone();
        shared.start(began);
        shared.end(ended);
        let mut span = shared.clone();
        for (attempt, error) in attempts {
            let parent = Parent::Ours(attempt.context);
            span.begin_again(&shared, &maker.context(parent, None), parent);
            let job = Value::Hash(attempt.conversation);
            span.attribute(otel::CONVERSATION_ID, job);
            if let Some(error) = error {
                let (word, why) = error.word_and_reason();
                span.fail(word, why);
            }
            maker.queue.push(span.as_bytes());
        }
    }
}

impl SettleError {
    /// Returns this error as a word, and as a sentence.
    fn word_and_reason(self) -> (&'static str, &'static str) {
        match self {
            Self::Stale => ("stale", "the lease had run out; the attempt is repeated"),
            Self::Store => ("store", "the store did not take the settlement"),
        }
    }
}

impl SendSpan {
    /// Returns the context of this span, to be stored with the message (W3C Trace Context). `None`
    /// if nothing is traced, or no longer.
    pub fn traceparent(&self) -> Option<String> {
        self.context.map(|context| context.text())
    }

    /// Ends the span with what the bounce led to.
    pub fn end(mut self, answer: &'static str) {
        if let Some(open) = &mut self.open {
            open.record.text(own::ANSWER, answer);
        }
    }

    /// Ends the span of a message that the store did not take.
    pub fn fail(mut self) {
        if let Some(open) = &mut self.open {
            let why = "the store did not take the bounce";
            open.record.fail("store", why);
        }
    }
}

#[cfg(test)]
mod tests;
