//! What all spans are made with, and the attributes that they share.

use domain::reply::Reply;
use opentelemetry::{KeyValue, StringValue};
use opentelemetry_sdk::trace::SdkTracer;

use crate::ids::IdHasher;
use crate::names::{otel, own};
use crate::settings::TraceStyle;

#[derive(Debug)]
pub(super) struct SpanMaker {
    pub(super) tracer: SdkTracer,
    pub(super) ids: IdHasher,
    pub(super) queue: StringValue,
    pub(super) style: TraceStyle,
    pub(super) shows_message_ids: bool,
    pub(super) shows_reply_text: bool,
}

impl SpanMaker {
    /// Returns the attributes that all spans about a job have.
    pub(super) fn common(
        &self,
        operation: &'static str,
        conversation: StringValue,
    ) -> Vec<KeyValue> {
        vec![
            KeyValue::new(otel::SYSTEM, "redeliver"),
            KeyValue::new(otel::OPERATION_NAME, operation),
            KeyValue::new(otel::OPERATION_TYPE, operation),
            KeyValue::new(otel::DESTINATION_NAME, self.queue.clone()),
            KeyValue::new(otel::CONVERSATION_ID, conversation),
        ]
    }

    pub(super) fn message_id(&self, id: &str) -> KeyValue {
        let id = if self.shows_message_ids {
            id.to_owned()
        } else {
            self.ids.hash(id)
        };
        KeyValue::new(otel::MESSAGE_ID, id)
    }

    pub(super) fn reply(&self, reply: &Reply, attributes: &mut Vec<KeyValue>) {
        if let Some(code) = reply.code {
            attributes.push(KeyValue::new(own::REPLY_CODE, i64::from(code)));
        }
        if let Some(status) = reply.status {
            attributes.push(KeyValue::new(own::REPLY_ENHANCED_CODE, status.to_string()));
        }
    }
}

/// Returns an attribute whose value is a copy of this text.
pub(super) fn text(key: &'static str, value: &str) -> KeyValue {
    KeyValue::new(key, value.to_owned())
}
