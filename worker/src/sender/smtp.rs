//! Hands mail to a relay over SMTP (RFC 5321). Connections are kept and used again.
//!
//! What the relay says to MAIL, RCPT or the content is its answer for this message. Trouble before that (no connection,
//! a refused greeting) and lost connections are ours, and never count against the recipient.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use shared::config::{AfterDot, SmtpSettings};
use shared::outcome::{Outcome, Side};
use shared::reply::Reply;
use shared::transcript::Transcript;

use self::pool::Pools;
use self::session::{Manner, Peer, Place};
use self::tls::TlsClient;
use self::trail::Trail;
use super::{Attempt, Sender};

mod dots;
mod envelope;
mod offers;
pub(super) mod pool;
pub(super) mod session;
pub(super) mod stop;
pub(super) mod tls;
pub(super) mod trail;
mod transaction;
mod wire;

/// Sends by one relay.
pub struct SmtpSender {
    pools: Pools,
    relay: Peer,
    after_dot: AfterDot,
    /// Whether the last connection could not be made, so that the log says once that it is so.
    down: AtomicBool,
}

impl SmtpSender {
    /// A sender for one relay. Nothing is connected yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(settings: SmtpSettings) -> Self {
        let SmtpSettings { host, port, tls, login, session } = settings;
        let relay = Peer { host, place: Place::Port(port), source: None, tls };
        let (after_dot, tls) = (session.after_dot, TlsClient::new(session.certificates.clone()));
        let pools = Pools::new(Manner { settings: session, login, tls });
        Self { pools, relay, after_dot, down: AtomicBool::new(false) }
    }

    /// Says once that the relay cannot be used, and once that it can be again.
    fn note(&self, outcome: &Outcome, reached: bool) {
        let relay = &self.relay.host;
        if reached {
            if self.down.swap(false, Ordering::Relaxed) {
                tracing::info!(relay, "the relay answers again");
            }
        } else if let Outcome::Unreachable(fault) = outcome
            && !self.down.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(relay, %fault, "the relay cannot be used; jobs of its route wait");
        }
    }
}

#[async_trait]
impl Sender for SmtpSender {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        self.send_traced(attempt).await.0
    }

    async fn send_traced(&self, attempt: &Attempt) -> (Outcome, Option<Transcript>) {
        let Some(content) = &attempt.content else { return (without_content(), None) };
        let mut trail = Trail::default();
        let outcome = match self.pools.hand_over(&self.relay, attempt, content, &mut trail).await {
            Ok(reply) => {
                self.note(&Outcome::Accepted(reply.clone()), true);
                Outcome::Accepted(reply)
            }
            Err(stop) if stop.is_unknown() => {
                trail.is_unknown();
                match self.after_dot {
                    AfterDot::AssumeDelivered => Outcome::Accepted(assumed()),
                    AfterDot::Resend => stop.outcome(Side::Ours),
                }
            }
            Err(stop) => {
                let reached = !stop.is_about_access();
                let outcome = stop.outcome(Side::Ours);
                self.note(&outcome, reached);
                outcome
            }
        };
        (outcome, Some(trail.finish()))
    }
}

/// What stands for the reply where a message was sent whole and not answered for, and counts as taken.
pub(super) fn assumed() -> Reply {
    Reply { code: None, status: None, text: "no reply to the message; it is assumed to have been taken".to_owned() }
}

/// What can only be an smtp route's message without content.
pub(super) fn without_content() -> Outcome {
    Outcome::Unreadable("the message has no content, which this route needs".to_owned())
}
