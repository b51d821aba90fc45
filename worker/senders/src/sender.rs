//! The trait that every sender implements. A sender turns one attempt into one [`Outcome`]. It knows
//! neither the store, nor the policy, nor the other senders.

use async_trait::async_trait;
use domain::outcome::Outcome;
use domain::transcript::Transcript;

use crate::attempt::Attempt;

/// Tries to redeliver.
#[async_trait]
pub trait Sender: Send + Sync {
    /// Tries once. Returns within the sender's own time limits, whatever the peer does. What every
    /// sender has to keep is tested by the suite in `conformance` (feature `conformance`).
    ///
    /// Cancel-safe in this sense: a call that is dropped leaves no half-used connection behind for
    /// the next one. It counts as one that did not happen; so it is not dropped while the message's
    /// [`InDoubt`](crate::in_doubt::InDoubt) is open, and ends soon by itself then.
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
