//! What all spans are made with, and the attributes that they share.

use std::sync::Arc;
use std::time::SystemTime;

use domain::reply::Reply;

use super::record::{Kind, Parent, SpanRecord};
use crate::ids::IdHasher;
use crate::names::{otel, own};
use crate::protobuf::Value;
use crate::queue::SpanQueue;
use crate::sampling::Sampling;
use crate::settings::{Settings, TraceStyle};
use crate::traceparent::TraceContext;

#[derive(Debug)]
pub(super) struct SpanMaker {
    pub(super) queue: Arc<SpanQueue>,
    pub(super) sampling: Sampling,
    pub(super) ids: IdHasher,
    pub(super) style: TraceStyle,
    pub(super) shows_message_ids: bool,
    pub(super) shows_reply_text: bool,
    pub(super) send: SpanRecord,
    pub(super) receive: SpanRecord,
    pub(super) process: SpanRecord,
    pub(super) settle: SpanRecord,
}

impl SpanMaker {
    /// `queue_name` is the name of the queue in Redis.
    pub(super) fn new(
        queue: Arc<SpanQueue>,
        settings: &Settings,
        queue_name: &str,
        ids: IdHasher,
    ) -> Self {
        let template = |span, kind, operation| {
            let mut template = SpanRecord::template(span, kind);
            template.text(otel::SYSTEM, "redeliver");
            template.text(otel::OPERATION_NAME, operation);
            template.text(otel::OPERATION_TYPE, span);
            template.text(otel::DESTINATION_NAME, queue_name);
            template
        };
        Self {
            queue,
            sampling: Sampling::from_environment(),
            ids,
            style: settings.trace_style,
            shows_message_ids: settings.message_ids,
            shows_reply_text: settings.reply_text,
            send: template("send", Kind::Producer, "send"),
            receive: template("receive", Kind::Client, "claim"),
            process: template("process", Kind::Consumer, "process"),
            settle: template("settle", Kind::Client, "settle"),
        }
    }

    /// Returns the context of a span that begins now.
    pub(super) fn context(
        &self,
        parent: Parent,
        first_link: Option<&TraceContext>,
    ) -> TraceContext {
        match (parent, first_link) {
            (Parent::Ours(parent) | Parent::Remote(parent), _) => parent.child(),
            (Parent::Root, Some(origin)) => TraceContext::root(|_| origin.is_sampled),
            (Parent::Root, None) => TraceContext::root(|trace| self.sampling.takes(trace)),
        }
    }

    pub(super) fn message_id(&self, id: &str, span: &mut SpanRecord) {
        if self.shows_message_ids {
            span.text(otel::MESSAGE_ID, id);
        } else {
            span.attribute(otel::MESSAGE_ID, Value::Hash(self.ids.number(id)));
        }
    }
}

/// Adds the codes of a reply.
pub(super) fn add_reply(span: &mut SpanRecord, reply: &Reply) {
    if let Some(code) = reply.code {
        span.int(own::REPLY_CODE, code);
    }
    if let Some(status) = reply.status {
        span.text(own::REPLY_ENHANCED_CODE, &status.to_string());
    }
}

/// A span that has begun. It is sent when it is dropped, and ends then if it has not ended before.
#[derive(Debug)]
pub(super) struct OpenSpan {
    pub(super) maker: Arc<SpanMaker>,
    pub(super) record: SpanRecord,
    pub(super) ended: Option<SystemTime>,
}

impl OpenSpan {
    pub(super) fn new(maker: Arc<SpanMaker>, record: SpanRecord) -> Self {
        Self {
            maker,
            record,
            ended: None,
        }
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        self.record.end(self.ended.unwrap_or_else(SystemTime::now));
        self.maker.queue.push(self.record.as_bytes());
    }
}
