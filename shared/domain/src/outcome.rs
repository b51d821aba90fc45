//! What a sender saw when it tried: the end of one attempt for one message, before policy has
//! judged it.

use std::fmt;

use crate::reply::Reply;
use crate::status::{EnhancedStatus, StatusClass};

/// The end of one attempt for one message. A sender returns it and never an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The recipient's own mail system took the message.
    Delivered(Reply),
    /// A relay took the message and answers for it from here; a bounce may still come.
    Accepted(Reply),
    /// The peer said no for now (4xx).
    Deferred(Reply),
    /// The peer said no for good (5xx).
    Refused(Reply),
    /// No reply was had.
    Unreachable(Fault),
    /// The message could not be read, so nothing was tried.
    Unreadable(String),
}

/// Why no reply was had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// Whose trouble it is.
    pub side: Side,
    /// The name of the error that led to it, `EMFILE` or `REFUSED` say, if it has one.
    pub name: Option<&'static str>,
    /// What the system said, for people; it names no address.
    pub text: String,
}

/// The kinds of fault that leave an attempt without a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The host's name could not be looked up.
    Lookup,
    /// No connection could be made.
    Connect,
    /// The connection was lost, or a reply did not come in time.
    Lost,
    /// The message was sent whole and no reply came: it may have been taken or not.
    Unanswered,
    /// The peer spoke something that is not SMTP.
    Garbled,
    /// TLS could not be agreed on.
    Tls,
    /// Something on our own machine failed before anything was sent.
    Local,
}

/// Whose trouble a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Ours: our relay, our network. It never counts against an address.
    Ours,
    /// The recipient's mail system.
    Theirs,
}

impl Fault {
    /// Trouble of our own.
    pub fn ours(kind: FaultKind, text: String) -> Self {
        Self {
            kind,
            side: Side::Ours,
            name: None,
            text,
        }
    }

    /// Trouble of the recipient's mail system.
    pub fn theirs(kind: FaultKind, text: String) -> Self {
        Self {
            kind,
            side: Side::Theirs,
            name: None,
            text,
        }
    }

    /// Whether this process, or this machine, may open no more files for now. That passes as others
    /// are closed.
    pub fn is_shortage(&self) -> bool {
        self.name
            .is_some_and(|name| ["EMFILE", "ENFILE"].contains(&name))
    }
}

impl FaultKind {
    /// The enhanced status that stands for this fault (RFC 3463, section 3.5; TLS: section 3.8).
    pub const fn status(self) -> EnhancedStatus {
        let (subject, detail) = match self {
            Self::Lookup => (4, 3),
            Self::Connect => (4, 1),
            Self::Lost | Self::Unanswered | Self::Garbled => (4, 2),
            Self::Tls => (7, 5),
            Self::Local => (3, 0),
        };
        EnhancedStatus::new(StatusClass::Transient, subject, detail)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            FaultKind::Lookup => "name lookup failed",
            FaultKind::Connect => "connection failed",
            FaultKind::Lost => "connection lost",
            FaultKind::Unanswered => "no reply to the message",
            FaultKind::Garbled => "reply not understood",
            FaultKind::Tls => "TLS failed",
            FaultKind::Local => "not sent",
        };
        write!(f, "{what}: {}", self.text)
    }
}
