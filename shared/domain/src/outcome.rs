//! The outcome of one attempt for one message, as the sender saw it, before policy decides about
//! it.

use std::fmt;

use crate::reply::Reply;
use crate::status::{EnhancedStatus, StatusClass};

/// The end of one attempt for one message. A sender always returns an outcome, never an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The recipient's own mail system accepted the message.
    Delivered(Reply),
    /// A relay accepted the message and is now responsible for it. A bounce may still come.
    Accepted(Reply),
    /// The peer refused for now (4xx).
    Deferred(Reply),
    /// The peer refused permanently (5xx).
    Refused(Reply),
    /// No reply was received.
    Unreachable(Fault),
    /// The message's content could not be read, so nothing was sent.
    Unreadable(String),
}

/// Why no reply was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// Which side the trouble is on.
    pub side: Side,
    /// The name of the underlying error, for example `EMFILE` or `REFUSED`, if it has one.
    pub name: Option<&'static str>,
    /// The system's error text, for people. It contains no mail address.
    pub text: String,
}

/// The kinds of fault that end an attempt without a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The host's name could not be looked up.
    Lookup,
    /// No connection could be made.
    Connect,
    /// The connection was lost, or a reply did not come in time.
    Lost,
    /// The message was sent whole and no reply came, so it may have been accepted or not.
    Unanswered,
    /// The peer sent something that is not SMTP.
    NotSmtp,
    /// The TLS handshake failed.
    Tls,
    /// Something on our own machine failed before anything was sent.
    Local,
}

/// Which side a fault is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Ours: our machine, our relay or our network. It never counts against an address.
    Ours,
    /// The recipient's mail system.
    Theirs,
}

impl Outcome {
    /// Returns the peer's reply. `None` if there was none.
    pub const fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Delivered(reply)
            | Self::Accepted(reply)
            | Self::Deferred(reply)
            | Self::Refused(reply) => Some(reply),
            Self::Unreachable(_) | Self::Unreadable(_) => None,
        }
    }
}

impl Fault {
    /// Returns a fault on our side.
    pub fn ours(kind: FaultKind, text: String) -> Self {
        Self {
            kind,
            side: Side::Ours,
            name: None,
            text,
        }
    }

    /// Returns a fault of the recipient's mail system.
    pub fn theirs(kind: FaultKind, text: String) -> Self {
        Self {
            kind,
            side: Side::Theirs,
            name: None,
            text,
        }
    }

    /// Whether the cause is that this process, or this machine, has too many files open. That ends
    /// when some of them are closed.
    pub fn is_shortage(&self) -> bool {
        self.name
            .is_some_and(|name| ["EMFILE", "ENFILE"].contains(&name))
    }
}

/// Returns a text of another server without mail addresses: "…" replaces each word that contains
/// one, plain or encoded as in a URL.
pub fn without_addresses(text: &str) -> String {
    let has_address = |word: &&str| {
        ["@", "%40", "\u{ff20}"]
            .iter()
            .any(|mark| word.contains(mark))
    };
    let mut words: Vec<&str> = Vec::new();
    for word in text.split_whitespace() {
        if !has_address(&word) {
            words.push(word);
            continue;
        }
        // A quoted local part may contain spaces: its first words go too.
        if word.matches('"').count() % 2 == 1
            && let Some(start) = words.iter().rposition(|before| before.contains('"'))
        {
            words.truncate(start);
        }
        words.push("…");
    }
    words.join(" ")
}

impl FaultKind {
    /// Returns the enhanced status that represents this fault (RFC 3463, section 3.5; TLS: section
    /// 3.8).
    pub const fn status(self) -> EnhancedStatus {
        let (subject, detail) = match self {
            Self::Lookup => (4, 3),
            Self::Connect => (4, 1),
            Self::Lost | Self::Unanswered | Self::NotSmtp => (4, 2),
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
            FaultKind::NotSmtp => "reply not understood",
            FaultKind::Tls => "TLS failed",
            FaultKind::Local => "not sent",
        };
        write!(f, "{what}: {}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_addresses_keeps_all_other_words() {
        for (text, expected) in [
            ("", ""),
            (
                "4.7.0  try again in 5 minutes",
                "4.7.0 try again in 5 minutes",
            ),
            (
                "no login for <jo@example.com>, sorry",
                "no login for … sorry",
            ),
            ("GET https://host/jo%40example.com failed", "GET … failed"),
            ("no \"jo doe\"@example.com here", "no … here"),
            (
                "the \"relay\" knows no jo@example.com",
                "the \"relay\" knows no …",
            ),
        ] {
            assert_eq!(without_addresses(text), expected);
        }
    }
}
