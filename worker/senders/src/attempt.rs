//! The description of one attempt that a sender gets.

use std::sync::Arc;

use domain::address::Address;
use domain::destination::Destination;
use serde_json::{Map, Value};

use crate::idempotency_scope::IdempotencyScope;
use crate::in_doubt::InDoubt;

/// One message on its way to one recipient, ready to be sent.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The job's id, `account/recipient`.
    pub job: Arc<str>,
    /// The hash of the job's id, which names the job in the log. `None`: the log does not name it.
    pub job_hash: Option<String>,
    /// The destination of the job.
    pub destination: Destination,
    /// The number of this attempt of the job. The platform's own attempt was number 0.
    pub number: u32,
    /// The id of the message within its job.
    pub message_id: String,
    /// The envelope recipient.
    pub recipient: Address,
    /// The envelope sender; `None` is the null reverse-path `<>`.
    pub envelope_from: Option<Address>,
    /// Identifies this attempt among the job's attempts; used by [`Self::key`].
    pub scope: IdempotencyScope,
    /// Whether the peer may have the message without having answered yet. A sender waits for the
    /// answer to the whole message through [`InDoubt::answer`].
    pub in_doubt: InDoubt,
    /// The kind of mail.
    pub stream: Option<String>,
    /// The trace that the message belongs to (W3C Trace Context).
    pub traceparent: Option<String>,
    /// The data that the platform attached to the message.
    pub metadata: Map<String, Value>,
    /// The message as it is transmitted, before dot-stuffing. `None` if the platform keeps the
    /// content.
    pub content: Option<bytes::Bytes>,
}

impl Attempt {
    /// Returns the idempotency key of this attempt for this message. It stays the same if the
    /// attempt is repeated because its worker was lost or the attempt was held. Every later attempt
    /// has another key. The key does not reveal the address.
    pub fn key(&self) -> String {
        self.scope.key(&self.job, &self.message_id)
    }

    /// Returns the first attempt for a message of the default account, with neither content nor
    /// envelope sender. Tests of senders start from it.
    pub fn first(recipient: Address, message_id: &str) -> Self {
        Self {
            job: format!("default/{}", recipient.as_str()).into(),
            job_hash: None,
            destination: Destination::own(&recipient),
            number: 1,
            message_id: message_id.to_owned(),
            recipient,
            envelope_from: None,
            scope: IdempotencyScope::default(),
            in_doubt: InDoubt::default(),
            stream: None,
            traceparent: None,
            metadata: Map::new(),
            content: None,
        }
    }
}
