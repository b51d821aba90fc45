//! The content of a report about delivery: its kind, and what it reports about each recipient.

use domain::clock::Timestamp;
use domain::reply::Reply;
use domain::status::{EnhancedStatus, StatusClass};

use crate::bounded::name;

/// What a message reports about the delivery of other messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What kind of report it is.
    pub kind: Kind,
    /// Its recipients in order, at most [`MAX_RECIPIENTS`](crate::bounds::MAX_RECIPIENTS). There
    /// may be none, even in a report of a failure.
    pub recipients: Vec<Recipient>,
    /// The envelope id that the sender gave the original (`ENVID`, RFC 3461, section 4.4), decoded.
    pub envelope_id: Option<String>,
    /// The `Message-ID` of the original, without its angle brackets.
    pub message_id: Option<String>,
    /// The addresses in the `To` field of the original. Empty if a person forwarded the report.
    pub original_to: Vec<String>,
    /// The addresses that the report itself was delivered to, from its header fields.
    pub delivered_to: Vec<String>,
    /// What a feedback report asks for. `None` if the report is none, or asks for nothing: it may
    /// state that a message is no spam.
    pub feedback: Option<Feedback>,
    /// The return paths of the original that the report names: `Original-Mail-From`, and the
    /// `Return-Path` of the returned mail.
    pub sent_from: Vec<String>,
    /// When the report was written, by its own date. If a person forwarded it, the date comes from
    /// the forwarded text.
    pub dated: Option<Timestamp>,
    /// Whether the report has a date that cannot be read.
    pub has_unreadable_date: bool,
}

/// The kind of a report. If it has several recipients, the worst result counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// The mail was not delivered to at least one recipient, and the reporting mail system has
    /// given up.
    Failed,
    /// The mail is not delivered yet. Another mail system is retrying it.
    Delayed,
    /// The mail was delivered.
    Delivered,
    /// The mail was passed to a mail system that does not report.
    Relayed,
    /// The mail was passed on to several other addresses.
    Expanded,
    /// An automatic reply of a recipient's mail system, such as a vacation notice (RFC 3834).
    AutoReply,
    /// A complaint, or a request to unsubscribe (RFC 5965).
    Feedback,
    /// The message is not a report.
    #[default]
    None,
}

/// What a recipient asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// The mail was reported as unwanted.
    Complaint,
    /// The recipient wants no more of this mail.
    Unsubscribe,
}

/// What happened to the mail for one recipient (RFC 3464, section 2.3.3).
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

/// What a report contains about one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The address that the sender used, if the report contains it (RFC 3464, section 2.3.1).
    pub original: Option<String>,
    /// The address that the report is about. It can differ from the original one because of
    /// forwarding (RFC 3464, section 2.3.2).
    pub last: Option<String>,
    /// What happened to the mail. `None` if the report is not about a delivery.
    pub action: Option<Action>,
    /// The reply of the recipient's mail system, as far as the report contains it, with the
    /// report's status.
    pub reply: Reply,
    /// The whole text about the recipient, at most
    /// [`MAX_DIAGNOSTIC`](crate::bounds::MAX_DIAGNOSTIC) bytes.
    pub diagnostic: String,
    /// The host that sent the reply.
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
    /// Returns the address that the sender used, if the report contains it, else the last address.
    pub fn address(&self) -> Option<&str> {
        self.original.as_deref().or(self.last.as_deref())
    }

    /// Whether the mail system has given up delivery to this recipient.
    pub fn has_failed(&self) -> bool {
        self.action == Some(Action::Failed)
    }

    /// Returns a recipient that a report names, without any information about delivery.
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
    /// Returns the name used in the API and on the command line.
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
    /// Returns the name in RFC 3464.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
        }
    }

    /// Returns the action with this name, in upper or lower case, with or without a comment.
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

    /// Returns the action that a status alone means. A report without a status means a failure.
    pub(crate) fn from_status(status: Option<EnhancedStatus>) -> Self {
        match status.map(EnhancedStatus::class) {
            Some(StatusClass::Success) => Self::Delivered,
            _ => Self::Failed,
        }
    }
}

/// Returns the reply to a failure, without a code and a status that mean success.
pub(crate) fn without_success(mut reply: Reply) -> Reply {
    reply.status = reply
        .status
        .filter(|status| status.class() != StatusClass::Success);
    reply.code = reply.code.filter(|code| *code >= 400);
    reply
}
