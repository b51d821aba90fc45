//! Logs each message and reports it as delivered, but sends nothing. For trying Redeliver out. A
//! line has no part of the address, and no message id, because these often contain addresses.

use async_trait::async_trait;
use domain::outcome::Outcome;
use domain::reply::Reply;

use crate::attempt::Attempt;
use crate::sender::Sender;

/// Writes one line per message to the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogSender;

#[async_trait]
impl Sender for LogSender {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        tracing::info!(
            destination = %attempt.destination,
            job = attempt.job_hash.as_deref(),
            attempt = attempt.number,
            bytes = attempt.content.as_ref().map(bytes::Bytes::len),
            "would send"
        );
        Outcome::Delivered(Reply::parse("250 2.0.0 logged"))
    }
}
