//! A span in its encoded form (`Span` in opentelemetry/proto/trace/v1/trace.proto). Each field is
//! written as soon as it is known.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::names::{otel, own};
use crate::protobuf::{Value, attribute, bytes, fixed32, fixed64, message, uint};
use crate::traceparent::TraceContext;

/// The numbers of the fields.
mod field {
    pub(super) const TRACE_ID: u8 = 1;
    pub(super) const SPAN_ID: u8 = 2;
    pub(super) const PARENT_ID: u8 = 4;
    pub(super) const NAME: u8 = 5;
    pub(super) const KIND: u8 = 6;
    pub(super) const START: u8 = 7;
    pub(super) const END: u8 = 8;
    pub(super) const ATTRIBUTES: u8 = 9;
    pub(super) const LINKS: u8 = 13;
    pub(super) const STATUS: u8 = 15;
    pub(super) const FLAGS: u8 = 16;
    /// The attributes and flags of a link.
    pub(super) const LINK_ATTRIBUTES: u8 = 4;
    pub(super) const LINK_FLAGS: u8 = 6;
    /// The message and the code of a status.
    pub(super) const STATUS_MESSAGE: u8 = 2;
    pub(super) const STATUS_CODE: u8 = 3;
}

/// The code of the status of a span that failed (`STATUS_CODE_ERROR`).
const ERROR: u64 = 2;

/// The flag that says that [`IS_REMOTE`] has a meaning.
const IS_REMOTE_KNOWN: u32 = 0x100;

/// The flag of a span whose parent belongs to another process, and of a link to a span of another
/// process.
const IS_REMOTE: u32 = 0x200;

/// How many bytes are reserved for a span. This is enough for most spans.
const CAPACITY: usize = 768;

/// The kind of a span. The numbers are those of `SpanKind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Client = 3,
    Producer = 4,
    Consumer = 5,
}

/// The parent of a span.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parent {
    /// There is none: the span begins a trace.
    Root,
    /// A span of this process.
    Ours(TraceContext),
    /// A span of another process.
    Remote(TraceContext),
}

/// A span that is being written.
#[derive(Clone, Debug)]
pub(crate) struct SpanRecord(Vec<u8>);

impl SpanRecord {
    /// Returns a template: the fields that all spans of this name have in common.
    pub(super) fn template(name: &str, kind: Kind) -> Self {
        let mut out = Vec::new();
        bytes(&mut out, field::NAME, name.as_bytes());
        uint(&mut out, field::KIND, kind as u64);
        Self(out)
    }

    /// Begins a span that has the fields of this template.
    pub(super) fn begin(&self, context: &TraceContext, parent: Parent) -> Self {
        let mut span = Self(Vec::with_capacity(CAPACITY));
        span.begin_again(self, context, parent);
        span
    }

    /// Replaces this span with a new one that has the fields of `template`. Its memory is reused.
    pub(super) fn begin_again(&mut self, template: &Self, context: &TraceContext, parent: Parent) {
        let out = &mut self.0;
        out.clear();
        out.extend_from_slice(&template.0);
        bytes(out, field::TRACE_ID, &context.trace);
        bytes(out, field::SPAN_ID, &context.span);
        let (parent, remote_flag) = match parent {
            Parent::Root => (None, 0),
            Parent::Ours(parent) => (Some(parent), 0),
            Parent::Remote(parent) => (Some(parent), IS_REMOTE),
        };
        if let Some(parent) = parent {
            bytes(out, field::PARENT_ID, &parent.span);
        }
        let flags = u32::from(context.is_sampled) | IS_REMOTE_KNOWN | remote_flag;
        fixed32(out, field::FLAGS, flags);
    }

    /// Adds when the span began.
    pub(super) fn start(&mut self, began: SystemTime) {
        fixed64(&mut self.0, field::START, nanos(began));
    }

    /// Adds a text.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.attribute(key, Value::Text(value));
    }

    /// Adds a number.
    pub(super) fn int(&mut self, key: &str, value: impl Into<i64>) {
        self.attribute(key, Value::Int(value.into()));
    }

    /// Adds an attribute. Each key must be added at most once.
    pub(super) fn attribute(&mut self, key: &str, value: Value<'_>) {
        attribute(&mut self.0, field::ATTRIBUTES, key, value);
    }

    /// Adds a link to the span `to`. `role` is what that span is to this one: `origin` or
    /// `previous`.
    pub(super) fn link(&mut self, to: &TraceContext, role: &str) {
        message(&mut self.0, field::LINKS, |out| {
            bytes(out, field::TRACE_ID, &to.trace);
            bytes(out, field::SPAN_ID, &to.span);
            attribute(out, field::LINK_ATTRIBUTES, own::LINK, Value::Text(role));
            let flags = u32::from(to.is_sampled) | IS_REMOTE_KNOWN | IS_REMOTE;
            fixed32(out, field::LINK_FLAGS, flags);
        });
    }

    /// Marks the span as failed. `error_type` is one of a few words, and `why` is a sentence.
    pub(super) fn fail(&mut self, error_type: &str, why: &str) {
        self.text(otel::ERROR_TYPE, error_type);
        self.mark_as_error(why);
    }

    /// Marks the span as failed, without a type of error.
    pub(super) fn mark_as_error(&mut self, why: &str) {
        message(&mut self.0, field::STATUS, |out| {
            bytes(out, field::STATUS_MESSAGE, why.as_bytes());
            uint(out, field::STATUS_CODE, ERROR);
        });
    }

    /// Adds when the span ended.
    pub(super) fn end(&mut self, ended: SystemTime) {
        fixed64(&mut self.0, field::END, nanos(ended));
    }

    /// Returns how many bytes the span has now.
    pub(super) fn length(&self) -> usize {
        self.0.len()
    }

    /// Shortens the span to this many bytes, which removes what was added after it had them.
    pub(super) fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }

    /// Returns the span in the form in which it is sent.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Returns an instant in nanoseconds since the Unix epoch.
fn nanos(at: SystemTime) -> u64 {
    let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    since_epoch.as_nanos().try_into().unwrap_or(u64::MAX)
}
