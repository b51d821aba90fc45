//! Why a conversation ended without the message being taken.

use domain::outcome::{Fault, FaultKind, Outcome, Side};
use domain::reply::Reply;
use domain::reply::stage::Stage;
use domain::transcript::Phase;

use super::wire::{Said, Silence};

/// Why, and in which phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) phase: Phase,
    pub(crate) why: Why,
}

/// Why a conversation did not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The peer said no.
    Said(Reply),
    /// The peer said nothing within the phase's time.
    Late,
    /// The connection is of no more use.
    Broken(Silence),
    /// All connections that there may be were in use: the peer was not asked for another.
    Crowded,
}

/// The codes that say who we have to be, or that we have to encrypt first (RFC 3207, section 4; RFC
/// 4954, section 6).
const ACCESS: [u16; 4] = [530, 534, 535, 538];

/// The code with which a server closes the connection, whatever it was asked (RFC 5321, section
/// 3.8).
const CLOSING: u16 = 421;

impl Stop {
    /// The peer's reply was not the one wanted.
    pub(crate) fn said(phase: Phase, said: &Said) -> Self {
        if said.is_no() {
            return Self {
                phase,
                why: Why::Said(said.reply()),
            };
        }
        Self {
            phase,
            why: Why::Broken(Silence::new(
                FaultKind::Garbled,
                format!("the peer said {} to {phase}", said.code),
            )),
        }
    }

    /// The same where TLS had just begun: a peer that breaks off then has refused it, for with TLS
    /// 1.3 what it has against our certificate comes after our side is done (RFC 8446, section
    /// 4.4.2.4).
    pub(crate) fn by_tls(self) -> Self {
        match self.why {
            Why::Broken(lost) if lost.kind == FaultKind::Lost => {
                let text = format!("broken off after TLS began: {}", lost.text);
                Self {
                    phase: Phase::Tls,
                    why: Why::Broken(Silence {
                        kind: FaultKind::Tls,
                        text,
                        ..lost
                    }),
                }
            }
            why => Self { why, ..self },
        }
    }

    /// Whether it is about the connection and not about the message: the peer closes, or is gone.
    pub(crate) fn is_about_connection(&self) -> bool {
        match &self.why {
            Why::Said(reply) => self.is_before_mail() || reply.code == Some(CLOSING),
            Why::Late | Why::Broken(..) => true,
            // That we have much to say to a host is no reason to bother the next.
            Why::Crowded => false,
        }
    }

    /// Whether the peer says that it closes, before it was sent the message whole.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(&self.why, Why::Said(reply) if reply.code == Some(CLOSING))
            && self.phase != Phase::Dot
    }

    /// Whether a connection that had carried messages before had ended while nobody looked.
    pub(crate) fn is_farewell(&self) -> bool {
        self.is_closing()
            || self.phase == Phase::Mail
                && matches!(&self.why, Why::Broken(lost) if lost.kind == FaultKind::Lost)
    }

    /// Whether this machine has no way to the address: no route, or no address of its kind.
    pub(crate) fn is_no_way(&self) -> bool {
        matches!(&self.why, Why::Broken(Silence { cause: Some(cause), .. }) if cause.is_no_way())
    }

    /// Whether this process, or this machine, may open no more files for now.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(&self.why, Why::Broken(Silence { cause: Some(cause), .. }) if cause.is_shortage())
    }

    /// Whether it came before the message was mentioned.
    pub(crate) fn is_before_mail(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Mail | Phase::Rcpt | Phase::Data | Phase::Dot
        )
    }

    /// Whether the peer may have the message: all of it was sent.
    pub(crate) fn is_unknown(&self) -> bool {
        self.phase == Phase::Dot && !matches!(self.why, Why::Said(_))
    }

    /// As an outcome, where what the peer said is about the message; the rest is a fault on this
    /// side.
    pub(crate) fn outcome(self, side: Side) -> Outcome {
        match self.why {
            Why::Said(reply) if !self.is_before_mail() && !is_about_access(&reply) => {
                outcome_of(self.phase, reply)
            }
            why => Outcome::Unreachable(Self { why, ..self }.fault(side)),
        }
    }

    /// As a fault. Trouble of our own machine stays ours.
    pub(crate) fn fault(self, side: Side) -> Fault {
        let (unknown, before_mail) = (self.is_unknown(), self.is_before_mail());
        let is_ours = matches!(&self.why, Why::Broken(silence) if silence.is_ours());
        let mut name = None;
        let (kind, text) = match self.why {
            // What is said to the envelope may quote it.
            Why::Said(reply) if !before_mail => {
                let bare = Reply {
                    text: String::new(),
                    ..reply
                };
                (
                    FaultKind::Connect,
                    format!("{} was refused: {bare}", self.phase),
                )
            }
            Why::Said(reply) => (
                FaultKind::Connect,
                format!("{} was refused: {reply}", self.phase),
            ),
            Why::Late if self.phase == Phase::Connect => {
                (FaultKind::Connect, "no connection in time".to_owned())
            }
            Why::Late => (
                FaultKind::Lost,
                format!("no answer to {} in time", self.phase),
            ),
            Why::Broken(Silence { kind, cause, text }) => {
                name = cause.map(|cause| cause.name);
                (kind, text)
            }
            Why::Crowded => (
                FaultKind::Local,
                "no connection became free in time".to_owned(),
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

/// Whether a reply, whenever it comes, is about who we are and how we have come, and not about the
/// message.
fn is_about_access(reply: &Reply) -> bool {
    reply.code.is_some_and(|code| ACCESS.contains(&code))
}

/// The outcome of a reply that says no, with what it answered.
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
