//! One row of the policy table.

use std::time::Duration;

use classify::reason::Reason;
use domain::pace::Feedback;
use domain::reply::Reply;
use domain::standing::Standing;
use domain::status::pattern::StatusPattern;
use regex::Regex;

use crate::jitter::Jitter;
use crate::whose::Whose;

/// What a failure says something about.
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
    /// Nobody knows.
    Unknown,
}

/// What is left when the tries are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Final {
    /// The address is retired until an operator or a sign of life says otherwise.
    Inactive,
    /// The address is retired for a time.
    Unavailable,
    /// The messages are dropped and the address stays active.
    Message,
}

/// What a reply means for whoever wants to know only that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Worth retrying.
    Soft,
    /// The address is dead.
    Hard,
    /// The message failed for good, the address did not.
    Message,
}

/// What a hint in the reply does to the first delay; what a peer asks for beside its reply
/// lengthens later ones unless ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintUse {
    /// It may only make it longer.
    Lengthen,
    /// It takes its place.
    Replace,
    /// Nothing.
    Ignore,
}

/// One row: which failures it is for, and what is done about them.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name, unique in the table.
    pub name: String,
    /// The statuses that it is for; one of them must match.
    pub status: Vec<StatusPattern>,
    /// What the reply's text must match.
    pub text: Option<Regex>,
    /// The reasons that it is for, of which the reply must have one; empty where any will do.
    pub reason: Vec<Reason>,
    /// The account that it is for.
    pub account: Option<String>,
    /// The stream that it is for.
    pub stream: Option<String>,
    /// The destination that it is for.
    pub destination: Option<String>,
    /// What the failure says something about.
    pub scope: Scope,
    /// The delays, each from the settling of the try before. There are as many tries as delays.
    pub delays: Vec<Duration>,
    /// By how much they are moved.
    pub jitter: Jitter,
    /// What a hint does to the first of them.
    pub hint: HintUse,
    /// Whether the job waits without spending attempts.
    pub hold: bool,
    /// What is left at the end.
    pub end: Final,
    /// What a failure means, where delays and end do not say it.
    pub says: Option<Class>,
}

/// Scopes by their words.
pub const SCOPES: [(&str, Scope); 5] = [
    ("mailbox", Scope::Mailbox),
    ("host", Scope::Host),
    ("route", Scope::Route),
    ("message", Scope::Message),
    ("unknown", Scope::Unknown),
];

/// Finals by their words.
pub const FINALS: [(&str, Final); 3] = [
    ("inactive", Final::Inactive),
    ("unavailable", Final::Unavailable),
    ("message", Final::Message),
];

/// Classes by their words.
pub const CLASSES: [(&str, Class); 3] = [
    ("soft", Class::Soft),
    ("hard", Class::Hard),
    ("message", Class::Message),
];

/// Uses of a hint by their words.
pub const HINTS: [(&str, HintUse); 3] = [
    ("lengthen", HintUse::Lengthen),
    ("replace", HintUse::Replace),
    ("ignore", HintUse::Ignore),
];

/// The word for `value` in one of the lists of words above.
fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words
        .iter()
        .find(|(_, v)| *v == value)
        .map_or("", |(word, _)| word)
}

impl Scope {
    /// The word used in files and JSON.
    pub fn as_str(self) -> &'static str {
        word(&SCOPES, self)
    }

    /// What a failure of this scope says about its destination: a mail system that finds fault with
    /// a mailbox or a message works.
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
    /// The word used in files and JSON.
    pub fn as_str(self) -> &'static str {
        word(&FINALS, self)
    }

    /// The standing that the address is left in.
    pub const fn standing(self) -> Standing {
        match self {
            Self::Inactive => Standing::Inactive,
            Self::Unavailable => Standing::Unavailable,
            Self::Message => Standing::Active,
        }
    }
}

impl HintUse {
    /// The word used in files and JSON.
    pub fn as_str(self) -> &'static str {
        word(&HINTS, self)
    }
}

impl Class {
    /// The word used in files and JSON.
    pub fn as_str(self) -> &'static str {
        word(&CLASSES, self)
    }
}

impl Row {
    /// What a failure that this row is for means. It decides nothing: what is done is in delays and
    /// end.
    pub fn class(&self) -> Class {
        let done = match (self.delays.is_empty(), self.end) {
            (false, _) => Class::Soft,
            (true, Final::Inactive) => Class::Hard,
            (true, _) => Class::Message,
        };
        self.says.unwrap_or(done)
    }

    /// Whether the row is for this reply, as far as neither status nor reason say.
    pub(crate) fn is_for(&self, reply: &Reply, whose: Whose<'_>) -> bool {
        self.account
            .as_deref()
            .is_none_or(|account| account == whose.account)
            && self
                .stream
                .as_deref()
                .is_none_or(|stream| Some(stream) == whose.stream)
            && self
                .destination
                .as_deref()
                .is_none_or(|destination| destination == whose.destination)
            && self
                .text
                .as_ref()
                .is_none_or(|text| text.is_match(&reply.text))
    }
}
