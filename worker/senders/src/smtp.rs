//! Hands mail to a relay over SMTP (RFC 5321). Connections are kept and reused.
//!
//! The relay's reply to MAIL, RCPT or the content is its answer for this message. Other failures
//! are on our side and never count against the recipient: failures before MAIL (no connection, a
//! refused greeting), a 421 before the content was sent, and lost connections.

use std::sync::Arc;

use async_trait::async_trait;
use domain::outcome::{Outcome, Side};
use domain::reply::Reply;
use domain::transcript::Transcript;

use self::peer::{Peer, Place};
use self::pool::Pools;
use self::recorder::TranscriptRecorder;
use self::session::SessionParameters;
use self::tls::TlsClient;
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
pub(super) mod recorder;
pub(super) mod session;
pub(super) mod stop;
pub(super) mod tls;
mod transaction;
mod wire;

/// Sends through one relay.
pub struct SmtpSender {
    pools: Pools,
    relay: Peer,
    after_dot: AfterDot,
}

impl SmtpSender {
    /// Returns a sender for one relay. It does not connect yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(settings: SmtpSettings) -> Self {
        Self::with_shared_limit(settings, OpenSessions::new(usize::MAX))
    }

    /// Like [`new`](Self::new), and shares the limit on open sessions with other senders.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn with_shared_limit(settings: SmtpSettings, sessions: Arc<OpenSessions>) -> Self {
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
        let after_dot = session.after_dot;
        let tls = TlsClient::new(session.certificates.clone());
        let pools = Pools::new(
            SessionParameters {
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
        let mut recorder = TranscriptRecorder::default();
        let outcome = match self
            .pools
            .hand_over(&self.relay, attempt, content, &mut recorder)
            .await
        {
            Ok(reply) => Outcome::Accepted(reply),
            Err(stop) if stop.is_in_doubt() => {
                recorder.mark_in_doubt();
                match self.after_dot {
                    AfterDot::AssumeDelivered => Outcome::Accepted(assumed_reply()),
                    AfterDot::Resend => stop.outcome(Side::Ours),
                }
            }
            // A 421 from our own relay is not about the recipient.
            Err(stop) if stop.is_closing() => Outcome::Unreachable(stop.fault(Side::Ours)),
            Err(stop) => stop.outcome(Side::Ours),
        };
        (outcome, Some(recorder.finish()))
    }

    fn has_one_peer(&self) -> bool {
        true
    }

    async fn probe(&self) -> bool {
        self.pools.can_open(&self.relay).await
    }
}

/// Returns the reply for a message that was completely sent, got no answer, and counts as accepted.
pub(super) fn assumed_reply() -> Reply {
    Reply {
        code: None,
        status: None,
        text: "no reply to the message; it is assumed to be accepted".to_owned(),
    }
}

/// Returns the outcome for a message without content on a route that needs it.
pub(super) fn without_content() -> Outcome {
    Outcome::Unreadable("the message has no content, which this route needs".to_owned())
}
