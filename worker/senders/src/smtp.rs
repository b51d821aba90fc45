//! Hands mail to a relay over SMTP (RFC 5321). Connections are kept and used again.
//!
//! What the relay says to MAIL, RCPT or the content is its answer for this message. Trouble before
//! that (no connection, a refused greeting), a 421 before the content is out and lost connections
//! are ours, and never count against the recipient.

use std::sync::Arc;

use async_trait::async_trait;
use domain::outcome::{Outcome, Side};
use domain::reply::Reply;
use domain::transcript::Transcript;

use self::peer::{Peer, Place};
use self::pool::Pools;
use self::session::Manner;
use self::tls::TlsClient;
use self::trail::Trail;
use crate::attempt::Attempt;
use crate::sender::Sender;
use crate::settings::session::AfterDot;
use crate::settings::smtp::SmtpSettings;

pub use self::open_sessions::OpenSessions;

mod connect;
mod dots;
mod envelope;
mod offers;
mod open_sessions;
pub(super) mod peer;
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
}

impl SmtpSender {
    /// A sender for one relay. Nothing is connected yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(settings: SmtpSettings) -> Self {
        Self::among(settings, OpenSessions::new(usize::MAX))
    }

    /// The same, whose sessions are bounded together with those of other senders.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn among(settings: SmtpSettings, sessions: Arc<OpenSessions>) -> Self {
        let SmtpSettings {
            host,
            port,
            tls,
            login,
            session,
        } = settings;
        let relay = Peer {
            host,
            place: Place::Port(port),
            source: None,
            tls,
        };
        let (after_dot, tls) = (
            session.after_dot,
            TlsClient::new(session.certificates.clone()),
        );
        let pools = Pools::new(
            Manner {
                settings: session,
                login,
                tls,
            },
            sessions,
        );
        Self {
            pools,
            relay,
            after_dot,
        }
    }
}

#[async_trait]
impl Sender for SmtpSender {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        self.send_traced(attempt).await.0
    }

    async fn send_traced(&self, attempt: &Attempt) -> (Outcome, Option<Transcript>) {
        let Some(content) = &attempt.content else {
            return (without_content(), None);
        };
        let mut trail = Trail::default();
        let outcome = match self
            .pools
            .hand_over(&self.relay, attempt, content, &mut trail)
            .await
        {
            Ok(reply) => Outcome::Accepted(reply),
            Err(stop) if stop.is_unknown() => {
                trail.is_unknown();
                match self.after_dot {
                    AfterDot::AssumeDelivered => Outcome::Accepted(assumed()),
                    AfterDot::Resend => stop.outcome(Side::Ours),
                }
            }
            // Whom our relay has no time for is not what it closes for.
            Err(stop) if stop.is_closing() => Outcome::Unreachable(stop.fault(Side::Ours)),
            Err(stop) => stop.outcome(Side::Ours),
        };
        (outcome, Some(trail.finish()))
    }
}

/// What stands for the reply where a message was sent whole and not answered for, and counts as
/// taken.
pub(super) fn assumed() -> Reply {
    Reply {
        code: None,
        status: None,
        text: "no reply to the message; it is assumed to have been taken".to_owned(),
    }
}

/// What can only be an smtp route's message without content.
pub(super) fn without_content() -> Outcome {
    Outcome::Unreadable("the message has no content, which this route needs".to_owned())
}
