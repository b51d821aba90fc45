//! The seam where mail leaves. A sender turns one attempt into one [`Outcome`]; it knows neither
//! store nor policy nor the other senders.

use std::sync::Arc;

use async_trait::async_trait;
use domain::address::Address;
use domain::outcome::Outcome;
use domain::transcript::Transcript;
use serde_json::{Map, Value};

pub use contact::Contact;
pub use idempotency_scope::IdempotencyScope;
pub use in_doubt::InDoubt;

pub mod command;
#[cfg(feature = "conformance")]
pub mod conformance;
mod contact;
pub mod http;
mod idempotency_scope;
mod in_doubt;
pub mod log;
pub mod mx;
pub mod smtp;

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

/// Tries to redeliver.
#[async_trait]
pub trait Sender: Send + Sync {
    /// Tries once. Returns within the sender's own time limits, whatever the peer does. What every
    /// sender has to keep is tested by the suite in `sender::conformance` (feature `conformance`).
    ///
    /// Cancel-safe in this sense: a call that is dropped leaves no half-used connection behind for
    /// the next one. It counts as one that did not happen; so it is not dropped while the message's
    /// [`InDoubt`] is open, and ends soon by itself then.
    async fn send(&self, attempt: &Attempt) -> Outcome;

    /// The same, and what the wire showed on the way, for events and traces. A sender without a
    /// wire has nothing to add.
    async fn send_traced(&self, attempt: &Attempt) -> (Outcome, Option<Transcript>) {
        (self.send(attempt).await, None)
    }

    /// Whether attempts need the message's content; where they do not, it is not even fetched.
    fn wants_content(&self) -> bool {
        true
    }
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
