//! The trait that every sender implements. A sender turns one attempt into one [`Outcome`]. It
//! knows neither the store, nor the policy, nor the other senders.

use async_trait::async_trait;
use domain::exchange::Exchange;
use domain::outcome::Outcome;
use domain::transcript::Transcript;

use crate::attempt::Attempt;

/// Makes delivery attempts.
#[async_trait]
pub trait Sender: Send + Sync {
    /// Attempts delivery once. Returns within the sender's own time limits, whether or not the peer
    /// answers. The suite in `conformance` (feature `conformance`) tests what every sender must
    /// guarantee.
    ///
    /// Cancel-safe: a dropped call leaves no half-used connection for the next call. It counts as
    /// an attempt that was never made. So the caller must not drop it while the message is in doubt
    /// ([`InDoubt`](crate::in_doubt::InDoubt)). In that state a cancelled call returns soon by
    /// itself.
    async fn send(&self, attempt: &Attempt) -> Outcome;

    /// Like [`send`](Self::send), and also returns the transcript of the conversation, for events
    /// and traces. Senders without a network conversation return `None`.
    async fn send_traced(&self, attempt: &Attempt) -> (Outcome, Option<Transcript>) {
        (self.send(attempt).await, None)
    }

    /// Like [`send`](Self::send), and also returns what spans show of the attempt. This is what the
    /// worker calls. A sender with an SMTP conversation implements
    /// [`send_traced`](Self::send_traced) alone.
    async fn send_with_exchange(&self, attempt: &Attempt) -> (Outcome, Option<Exchange>) {
        let (outcome, transcript) = self.send_traced(attempt).await;
        (outcome, transcript.map(Exchange::Smtp))
    }

    /// Whether all mail of this sender goes to one peer, so that [`probe`](Self::probe) means
    /// something for all of it.
    fn has_one_peer(&self) -> bool {
        false
    }

    /// Whether the peer can be reached now. Sends no message. Only called if
    /// [`has_one_peer`](Self::has_one_peer) is true.
    async fn probe(&self) -> bool {
        true
    }

    /// Whether attempts need the message's content. If not, the worker does not fetch it.
    fn wants_content(&self) -> bool {
        true
    }
}
