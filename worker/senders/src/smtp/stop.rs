//! Why a conversation ended before the peer accepted the message.

use domain::outcome::{Fault, FaultKind, Outcome, Side, without_addresses};
use domain::reply::Reply;
use domain::reply::stage::Stage;
use domain::transcript::Phase;

use super::wire::{NoReply, RawReply};

/// The phase in which a conversation ended, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) phase: Phase,
    pub(crate) why: Why,
}

/// Why a conversation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The peer sent a negative reply.
    NegativeReply(Reply),
    /// The peer sent no reply within the phase's time limit.
    TimedOut,
    /// The connection cannot be used any more.
    Broken(NoReply),
    /// The peer was not contacted, because as many connections to it as are allowed were in use.
    NoFreeConnection,
}

/// The codes that ask for authentication, reject it, or require encryption first (RFC 3207, section
/// 4; RFC 4954, section 6).
const ACCESS_CODES: [u16; 4] = [530, 534, 535, 538];

/// The code with which a server closes the connection, in reply to any command (RFC 5321, section
/// 3.8).
const CLOSING_CODE: u16 = 421;

impl Stop {
    /// Returns the stop for a reply other than the expected one.
    pub(crate) fn unexpected(phase: Phase, reply: &RawReply) -> Self {
        if reply.is_negative() {
            return Self {
                phase,
                why: Why::NegativeReply(reply.parsed()),
            };
        }
        Self {
            phase,
            why: Why::Broken(NoReply::new(
                FaultKind::NotSmtp,
                format!("the peer replied {} to {phase}", reply.code),
            )),
        }
    }

    /// Returns this stop as one of a conversation in which TLS had just begun. A connection that is
    /// lost at that point counts as a failure of TLS. With TLS 1.3, the peer may reject our
    /// certificate only after our side of the handshake is done (RFC 8446, section 4.4.2.4).
    pub(crate) fn during_tls(self) -> Self {
        match self.why {
            Why::Broken(lost) if lost.kind == FaultKind::Lost => {
                let text = format!("connection lost after TLS began: {}", lost.text);
                Self {
                    phase: Phase::Tls,
                    why: Why::Broken(NoReply {
                        kind: FaultKind::Tls,
                        text,
                        ..lost
                    }),
                }
            }
            why => Self { why, ..self },
        }
    }

    /// Whether the connection failed, so that nothing is known about the message: the peer closes
    /// the connection, rejects us before MAIL, does not answer, or cannot be reached.
    pub(crate) fn is_about_connection(&self) -> bool {
        match &self.why {
            Why::NegativeReply(reply) => self.is_before_mail() || reply.code == Some(CLOSING_CODE),
            Why::TimedOut | Why::Broken(..) => true,
            // Our own limit on connections to this host is no reason to try the next host.
            Why::NoFreeConnection => false,
        }
    }

    /// Whether the peer announced that it closes the connection, before the whole message was sent.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(&self.why, Why::NegativeReply(reply) if reply.code == Some(CLOSING_CODE))
            && self.phase != Phase::Dot
    }

    /// Whether this stop of a reused session means that the peer had closed it while it was idle.
    pub(crate) fn is_stale_session(&self) -> bool {
        self.is_closing()
            || self.phase == Phase::Mail
                && matches!(&self.why, Why::Broken(lost) if lost.kind == FaultKind::Lost)
    }

    /// Whether this machine cannot reach the address: it has no route, or no local address of that
    /// family.
    pub(crate) fn is_unroutable(&self) -> bool {
        match &self.why {
            Why::Broken(NoReply { cause, .. }) => cause.is_some_and(|cause| cause.is_unroutable()),
            _ => false,
        }
    }

    /// Whether this process, or this machine, cannot open more files at the moment.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(&self.why, Why::Broken(NoReply { cause: Some(cause), .. }) if cause.is_shortage())
    }

    /// Whether the conversation ended before MAIL.
    pub(crate) fn is_before_mail(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Mail | Phase::Rcpt | Phase::Data | Phase::Dot
        )
    }

    /// Whether the peer may have the message: all of it was sent, and no reply arrived.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.phase == Phase::Dot && !matches!(self.why, Why::NegativeReply(_))
    }

    /// Returns the outcome. If the peer replied about the message, the reply is the outcome.
    /// Anything else is a fault on `side`.
    pub(crate) fn outcome(self, side: Side) -> Outcome {
        match self.why {
            Why::NegativeReply(reply) if !self.is_before_mail() && !is_about_access(&reply) => {
                outcome_of(self.phase, reply)
            }
            why => Outcome::Unreachable(Self { why, ..self }.fault(side)),
        }
    }

    /// Returns this stop as a fault on `side`. A failure of this machine is always on our side.
    pub(crate) fn fault(self, side: Side) -> Fault {
        let unknown = self.is_in_doubt();
        let is_ours = matches!(&self.why, Why::Broken(no_reply) if no_reply.is_ours());
        let mut name = None;
        let (kind, text) = match self.why {
            // The text may name a time after which to try again. It may also quote the addresses.
            Why::NegativeReply(reply) => {
                let reply = Reply {
                    text: without_addresses(&reply.text),
                    ..reply
                };
                (
                    FaultKind::Connect,
                    format!("{} was refused: {reply}", self.phase),
                )
            }
            Why::TimedOut if self.phase == Phase::Connect => {
                (FaultKind::Connect, "no connection in time".to_owned())
            }
            Why::TimedOut => (
                FaultKind::Lost,
                format!("no reply to {} in time", self.phase),
            ),
            Why::Broken(NoReply { kind, cause, text }) => {
                name = cause.map(|cause| cause.name);
                (kind, text)
            }
            Why::NoFreeConnection => (
                FaultKind::Local,
                "no connection to the peer became free in time".to_owned(),
            ),
        };
        let side = if is_ours || kind == FaultKind::Local {
            Side::Ours
        } else {
            side
        };
        Fault {
            kind: if unknown { FaultKind::Unanswered } else { kind },
            side,
            name,
            text,
        }
    }
}

/// Whether a reply is about our authentication or encryption, and not about the message. Such a
/// reply can come in any phase.
fn is_about_access(reply: &Reply) -> bool {
    reply.code.is_some_and(|code| ACCESS_CODES.contains(&code))
}

/// Returns the outcome of a negative reply to the command of this phase.
pub(crate) fn outcome_of(phase: Phase, reply: Reply) -> Outcome {
    let reply = match phase {
        Phase::Mail => reply.in_reply_to(Stage::Mail),
        Phase::Rcpt => reply.in_reply_to(Stage::Rcpt),
        Phase::Dot => reply.in_reply_to(Stage::Content),
        _ => reply,
    };
    if reply.code.is_some_and(|code| code >= 500) {
        Outcome::Refused(reply)
    } else {
        Outcome::Deferred(reply)
    }
}
