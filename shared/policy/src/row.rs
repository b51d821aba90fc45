//! One row of the policy table: which failures it is for, and what to do about them.

use std::time::Duration;

use classify::reason::Reason;
use domain::pace::Feedback;
use domain::reply::Reply;
use domain::standing::Standing;
use domain::status::pattern::StatusPattern;
use regex::Regex;

use crate::jitter::Jitter;

/// What a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The recipient's mailbox.
    Mailbox,
    /// The recipient's mail system.
    Host,
    /// Our IP address or reputation there.
    Route,
    /// The message itself.
    Message,
    /// The reply does not show what it is about.
    Unknown,
}

/// What happens when all attempts are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Final {
    /// The address is retired until an operator or a sign of life reinstates it.
    Inactive,
    /// The address is retired for a time.
    Unavailable,
    /// The messages are dropped and the address stays active.
    Message,
}

/// What a reply means, in one word, for people and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Worth retrying.
    Soft,
    /// The address is dead.
    Hard,
    /// The message failed permanently, but the address did not.
    Message,
}

/// What a hint in the reply does to the first delay. A time that the peer asks for outside the
/// reply's text also lengthens later delays, unless the row ignores hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintUse {
    /// It can only lengthen the delay.
    Lengthen,
    /// It replaces the delay.
    Replace,
    /// It has no effect.
    Ignore,
}

/// The properties of the failed mail that a row may be limited to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedMail<'a> {
    pub(crate) account: &'a str,
    pub(crate) stream: Option<&'a str>,
    pub(crate) destination: &'a str,
}

/// One row: which failures it is for, and what to do about them.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name, unique in the table.
    pub name: String,
    /// The statuses that it is for. One of them must match.
    pub status: Vec<StatusPattern>,
    /// The regular expression that the reply's text must match.
    pub text: Option<Regex>,
    /// The reasons that it is for. The reply must have one of them. If empty, every reply matches.
    pub reason: Vec<Reason>,
    /// The account that it is for.
    pub account: Option<String>,
    /// The stream that it is for.
    pub stream: Option<String>,
    /// The destination that it is for.
    pub destination: Option<String>,
    /// What the failure is about.
    pub scope: Scope,
    /// The delay before each attempt, counted from when the previous one was settled. There are as
    /// many attempts as delays.
    pub delays: Vec<Duration>,
    /// How far each delay may be moved.
    pub jitter: Jitter,
    /// What a hint does to the first delay.
    pub hint: HintUse,
    /// Whether the job waits without using up attempts.
    pub hold: bool,
    /// What happens when all attempts are used up.
    pub end: Final,
    /// The class that the table sets. If `None`, the class follows from `delays` and `end`.
    pub declared_class: Option<Class>,
}

/// All scopes with their words.
pub const SCOPES: [(&str, Scope); 5] = [
    ("mailbox", Scope::Mailbox),
    ("host", Scope::Host),
    ("route", Scope::Route),
    ("message", Scope::Message),
    ("unknown", Scope::Unknown),
];

/// All finals with their words.
pub const FINALS: [(&str, Final); 3] = [
    ("inactive", Final::Inactive),
    ("unavailable", Final::Unavailable),
    ("message", Final::Message),
];

/// All classes with their words.
pub const CLASSES: [(&str, Class); 3] = [
    ("soft", Class::Soft),
    ("hard", Class::Hard),
    ("message", Class::Message),
];

/// All uses of a hint with their words.
pub const HINTS: [(&str, HintUse); 3] = [
    ("lengthen", HintUse::Lengthen),
    ("replace", HintUse::Replace),
    ("ignore", HintUse::Ignore),
];

/// Returns the word for `value` from one of the lists above.
fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words
        .iter()
        .find(|(_, v)| *v == value)
        .map_or("", |(word, _)| word)
}

impl Scope {
    /// Returns the word used in files and JSON.
    pub fn as_str(self) -> &'static str {
        word(&SCOPES, self)
    }

    /// Returns what a failure of this scope means for the pace of its destination. A mail system
    /// that only rejects a mailbox or a message is working well.
    pub const fn feedback(self) -> Feedback {
        match self {
            Self::Host => Feedback::HostFailed,
            Self::Route => Feedback::RouteFailed,
            Self::Mailbox | Self::Message => Feedback::Good,
            Self::Unknown => Feedback::Nothing,
        }
    }
}

impl Final {
    /// Returns the word used in files and JSON.
    pub fn as_str(self) -> &'static str {
        word(&FINALS, self)
    }

    /// Returns the standing that the address gets.
    pub const fn standing(self) -> Standing {
        match self {
            Self::Inactive => Standing::Inactive,
            Self::Unavailable => Standing::Unavailable,
            Self::Message => Standing::Active,
        }
    }
}

impl HintUse {
    /// Returns the word used in files and JSON.
    pub fn as_str(self) -> &'static str {
        word(&HINTS, self)
    }
}

impl Class {
    /// Returns the word used in files and JSON.
    pub fn as_str(self) -> &'static str {
        word(&CLASSES, self)
    }
}

impl Row {
    /// Returns what a failure of this row means. It decides nothing: `delays` and `end` do.
    pub fn class(&self) -> Class {
        let from_action = match (self.delays.is_empty(), self.end) {
            (false, _) => Class::Soft,
            (true, Final::Inactive) => Class::Hard,
            (true, _) => Class::Message,
        };
        self.declared_class.unwrap_or(from_action)
    }

    /// Whether the row is for this reply and mail. Status and reason are not checked here: the
    /// ranking has done so.
    pub(crate) fn is_for(&self, reply: &Reply, mail: FailedMail<'_>) -> bool {
        self.account
            .as_deref()
            .is_none_or(|account| account == mail.account)
            && self
                .stream
                .as_deref()
                .is_none_or(|stream| Some(stream) == mail.stream)
            && self
                .destination
                .as_deref()
                .is_none_or(|destination| destination == mail.destination)
            && self
                .text
                .as_ref()
                .is_none_or(|text| text.is_match(&reply.text))
    }
}
