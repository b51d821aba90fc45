//! What a report about delivery holds: its kind, and what it says about each recipient.

use domain::clock::Timestamp;
use domain::reply::Reply;
use domain::status::{EnhancedStatus, StatusClass};

use crate::bounded::name;

/// What a message says about the delivery of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What kind of report it is.
    pub kind: Kind,
    /// Whom it speaks of, in its order, at most [`MAX_RECIPIENTS`](crate::bounds::MAX_RECIPIENTS).
    /// There may be none, even in a report of a failure.
    pub recipients: Vec<Recipient>,
    /// The envelope id that the sender gave the original (`ENVID`, RFC 3461, section 4.4), decoded.
    pub envelope_id: Option<String>,
    /// The original's `Message-ID`, without its angle brackets.
    pub message_id: Option<String>,
    /// Whom the original names in its `To`; nobody where a person handed the report on.
    pub original_to: Vec<String>,
    /// The addresses that the report itself came to, as its header fields have them.
    pub came_to: Vec<String>,
    /// When the report was written, as it says itself; one that a person handed on, within what
    /// they quote.
    pub written_at: Option<Timestamp>,
}

/// What kind of report a message is. Of several recipients the worst counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// The mail did not get through to somebody, and the reporting mail system has given up.
    Failed,
    /// It has not got through yet, and is being tried again by someone else.
    Delayed,
    /// It got through.
    Delivered,
    /// It was handed on to a mail system that does not report.
    Relayed,
    /// It was handed on to several other addresses.
    Expanded,
    /// A person's mail system answers by itself: a vacation notice, say (RFC 3834).
    AutoReply,
    /// Somebody complains, or unsubscribes (RFC 5965).
    Feedback,
    /// The message is no report.
    #[default]
    None,
}

/// What became of the mail for one recipient (RFC 3464, section 2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `failed`
    Failed,
    /// `delayed`
    Delayed,
    /// `delivered`
    Delivered,
    /// `relayed`
    Relayed,
    /// `expanded`
    Expanded,
}

/// What a report says about one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Whom the sender addressed, where the report says so (RFC 3464, section 2.3.1).
    pub original: Option<String>,
    /// The address that the report is about; forwarding may have led to it (RFC 3464, section
    /// 2.3.2).
    pub last: Option<String>,
    /// What became of the mail; `None` in reports that are not about a delivery.
    pub action: Option<Action>,
    /// What the recipient's mail system said, as far as it can be told, with the status that the
    /// report gives.
    pub reply: Reply,
    /// All that was said about the recipient, at most
    /// [`MAX_DIAGNOSTIC`](crate::bounds::MAX_DIAGNOSTIC) bytes.
    pub diagnostic: String,
    /// The host that said it.
    pub remote_mta: Option<String>,
}

impl Report {
    pub(crate) fn about(recipients: Vec<Recipient>) -> Self {
        let worst = recipients
            .iter()
            .filter_map(|recipient| recipient.action)
            .min_by_key(|action| *action as u8);
        Self {
            kind: worst.map_or(Kind::None, Kind::from),
            recipients,
            ..Self::default()
        }
    }
}

impl Recipient {
    /// The address that the sender used, as far as the report says.
    pub fn address(&self) -> Option<&str> {
        self.original.as_deref().or(self.last.as_deref())
    }

    /// Whether this is a failure that calls for something to be done.
    pub fn has_failed(&self) -> bool {
        self.action == Some(Action::Failed)
    }

    /// Somebody whom a report names without saying anything about delivery.
    pub(crate) fn named(address: Option<&str>) -> Self {
        let (original, action, remote_mta) = (None, None, None);
        let last = address.and_then(name);
        Self {
            original,
            last,
            action,
            reply: Reply::default(),
            diagnostic: String::new(),
            remote_mta,
        }
    }
}

impl Kind {
    /// Its name, as the API and the command line have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => Action::Failed.as_str(),
            Self::Delayed => Action::Delayed.as_str(),
            Self::Delivered => Action::Delivered.as_str(),
            Self::Relayed => Action::Relayed.as_str(),
            Self::Expanded => Action::Expanded.as_str(),
            Self::AutoReply => "auto_reply",
            Self::Feedback => "feedback",
            Self::None => "none",
        }
    }
}

impl From<Action> for Kind {
    fn from(action: Action) -> Self {
        match action {
            Action::Failed => Self::Failed,
            Action::Delayed => Self::Delayed,
            Action::Delivered => Self::Delivered,
            Action::Relayed => Self::Relayed,
            Action::Expanded => Self::Expanded,
        }
    }
}

impl Action {
    /// Its name in RFC 3464.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
        }
    }

    /// The action of this name, in whatever case, with a comment or without.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let word = name
            .split(|c: char| !c.is_ascii_alphabetic())
            .find(|word| !word.is_empty())?;
        [
            Self::Failed,
            Self::Delayed,
            Self::Delivered,
            Self::Relayed,
            Self::Expanded,
        ]
        .into_iter()
        .find(|action| action.as_str().eq_ignore_ascii_case(word))
    }

    /// What a status alone says; a report without a word means a failure.
    pub(crate) fn from_status(status: Option<EnhancedStatus>) -> Self {
        match status.map(EnhancedStatus::class) {
            Some(StatusClass::Success) => Self::Delivered,
            _ => Self::Failed,
        }
    }
}

/// What was said of a failure, without a code and a status that say success.
pub(crate) fn without_success(mut reply: Reply) -> Reply {
    reply.status = reply
        .status
        .filter(|status| status.class() != StatusClass::Success);
    reply.code = reply.code.filter(|code| *code >= 400);
    reply
}
