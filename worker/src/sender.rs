//! The seam where mail leaves. A sender turns one attempt into one [`Outcome`]; it knows neither store nor policy
//! nor the other senders.

use std::sync::Arc;

use async_trait::async_trait;
use shared::address::Address;
use shared::outcome::Outcome;
use shared::transcript::Transcript;

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
    /// The message as it goes on the wire, before dot-stuffing; `None` where the platform holds it.
    pub content: Option<bytes::Bytes>,
}

/// Tries to redeliver.
#[async_trait]
pub trait Sender: Send + Sync {
    /// Tries once. Returns within the sender's own time limits, whatever the peer does.
    ///
    /// Cancel-safe in this sense: a call that is dropped leaves no half-used connection behind for the next one.
    async fn send(&self, attempt: &Attempt) -> Outcome;

    /// The same, and what the wire showed on the way, for events and traces. A sender without a wire has nothing to add.
    async fn send_traced(&self, attempt: &Attempt) -> (Outcome, Option<Transcript>) {
        (self.send(attempt).await, None)
    }
}
