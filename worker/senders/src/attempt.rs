//! One attempt, as a sender gets it.

use std::sync::Arc;

use domain::address::Address;
use serde_json::{Map, Value};

use crate::idempotency_scope::IdempotencyScope;
use crate::in_doubt::InDoubt;

/// One message on its way to one recipient, ready to be sent.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The job's id, `account/recipient`.
    pub job: Arc<str>,
    /// Which attempt of the job this is; the platform's own was 0.
    pub number: u32,
    /// The id of the message within its job.
    pub message_id: String,
    /// The envelope recipient.
    pub recipient: Address,
    /// The envelope sender; `None` is the null reverse-path `<>`.
    pub envelope_from: Option<Address>,
    /// Where in its life the job is; [`Self::key`] is made of it.
    pub scope: IdempotencyScope,
    /// Whether anybody knows what becomes of it: where the sender waits for the answer to the whole
    /// message it does so by [`InDoubt::answer`].
    pub in_doubt: InDoubt,
    /// The kind of mail.
    pub stream: Option<String>,
    /// The trace that the message belongs to (W3C Trace Context).
    pub traceparent: Option<String>,
    /// What the platform sent with the message.
    pub metadata: Map<String, Value>,
    /// The message as it goes on the wire, before dot-stuffing; `None` where the platform holds it.
    pub content: Option<bytes::Bytes>,
}

impl Attempt {
    /// Names this attempt for this message: the same where it is repeated, because a worker was
    /// lost with it or it was held, and another for every attempt after it. It says nothing of the
    /// address.
    pub fn key(&self) -> String {
        self.scope.key(&self.job, &self.message_id)
    }

    /// The first attempt for a message of the default account, with neither content nor envelope
    /// sender: what tests of senders begin with.
    pub fn first(recipient: Address, message_id: &str) -> Self {
        Self {
            job: format!("default/{}", recipient.as_str()).into(),
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
