//! Reads why mail failed from a reply's text, code and status. It uses one ordered table,
//! `reasons.toml`, in which the first row that matches wins. It must not know what is done about a
//! reason: that is in the policy table.

use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use domain::reply::Reply;
use domain::reply::stage::Stage;
use domain::status::StatusClass;
use domain::status::pattern::StatusPattern;
use serde::{Serialize, Serializer};

use fold::{fold, split_words};
use texts::Texts;
use words::Words;

mod fold;
mod load;
mod pieces;
mod texts;
mod words;

/// The rows in order, each with examples that the tests verify.
const ROWS: &str = include_str!("reasons.toml");

static TABLE: LazyLock<Reasons> = LazyLock::new(|| {
    load::reasons(ROWS).expect("the tests load the table of reasons, which ships with the program")
});

/// Declares each [`Reason`] together with its word, so that neither can be forgotten.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $word:literal,)*) => {
        /// Why a message failed, in the usual terms of email delivery.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])* $name,)* }

        /// All reasons with their words.
        pub const REASONS: &[(&str, Reason)] = &[$(($word, Reason::$name),)*];

        impl Reason {
            /// Returns the word used in files and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

reasons! {
    /// The recipient does not exist.
    UserUnknown = "user_unknown",
    /// The recipient's domain or host does not exist.
    HostUnknown = "host_unknown",
    /// The recipient has left this address.
    Moved = "moved",
    /// The recipient's domain accepts no mail at all (RFC 7504, RFC 7505).
    NotAccepting = "not_accepting",
    /// The mailbox is over its quota.
    MailboxFull = "mailbox_full",
    /// The mailbox exists, but is disabled, locked or suspended.
    MailboxDisabled = "mailbox_disabled",
    /// The mailbox exists, but its mail has not been fetched for a month or longer.
    MailboxAbandoned = "mailbox_abandoned",
    /// The mail system has no space left.
    SystemFull = "system_full",
    /// The mail system accepts no mail at the moment.
    SystemNotAccepting = "system_not_accepting",
    /// The server asks us to try again later, and names no cause.
    TryLater = "try_later",
    /// The mail system has a fault of its own.
    SystemError = "system_error",
    /// Our IP address or host is on a blocklist or has a bad reputation.
    Blocked = "blocked",
    /// Our host has no name in the DNS, or a different one from the one it announces.
    ReverseDns = "reverse_dns",
    /// SPF, DKIM or DMARC does not allow us to send this mail.
    AuthFailure = "auth_failure",
    /// The sender's address or domain is rejected.
    SenderRejected = "sender_rejected",
    /// The server does not handle mail for this domain, or requires a login.
    RelayingDenied = "relaying_denied",
    /// The server requires TLS, or TLS failed.
    TlsFailure = "tls_failure",
    /// We send faster than the recipient or the server accepts.
    RateLimited = "rate_limited",
    /// We have too many connections open, or sent too much on one.
    TooManyConnections = "too_many_connections",
    /// The server defers unknown senders and expects them to try again (greylisting).
    Greylisted = "greylisted",
    /// The message is larger than allowed.
    TooBig = "too_big",
    /// The message has more recipients than allowed.
    TooManyRecipients = "too_many_recipients",
    /// The message was classified as spam.
    Spam = "spam",
    /// The message was classified as a virus.
    Virus = "virus",
    /// The message's format or content is rejected.
    Content = "content",
    /// The recipient does not want this mail.
    Filtered = "filtered",
    /// A rule of the recipient's mail system forbids it.
    Policy = "policy",
    /// A mail system on the way tried until the message expired.
    Expired = "expired",
    /// A connection could not be opened or was lost.
    NetworkError = "network_error",
    /// A name could not be looked up at the moment.
    LookupFailed = "lookup_failed",
    /// The message was routed in a loop.
    RoutingLoop = "routing_loop",
    /// Client and server did not understand each other's commands.
    ProtocolError = "protocol_error",
    /// The message failed permanently, and the reply names no cause.
    Unexplained = "unexplained",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Returns why the mail failed, if the reply contains a reason. Pure, and linear in the text, which
/// has at most 1 KiB.
pub fn recognize(reply: &Reply) -> Option<Reason> {
    Some(TABLE.row_for(reply)?.reason_for(reply))
}

/// Returns the example replies of the rows, in the order of the rows: for benches and tests. The
/// rows that only the word lists of the languages match are left out: such replies are rare.
pub fn examples() -> Vec<String> {
    let examples = load::examples(ROWS).into_iter();
    examples
        .filter(|example| !example.is_by_words)
        .map(|example| example.text)
        .collect()
}

/// The rows of the table, in order.
struct Reasons {
    texts: Texts,
    words: Words,
    /// At most [`ROWS_MAX`].
    rows: Vec<Row>,
    /// For each text, the number of its row.
    row_of: Vec<usize>,
    /// The rows without a text or words, as a bit set.
    textless: u128,
    /// The rows that words of the languages can match.
    by_words: u128,
    /// The number of the text with words for us and our sender in English.
    ours: usize,
    by_status: ByStatus,
}

/// The rows that replies of a status can match, as bit sets. So most statuses need not be compared.
struct ByStatus {
    /// For each class and subject.
    with: [[u128; SUBJECTS]; CLASSES.len()],
    /// For replies without a status.
    without: u128,
}

/// The classes of statuses.
const CLASSES: [StatusClass; 3] = [
    StatusClass::Success,
    StatusClass::Transient,
    StatusClass::Permanent,
];

/// The number of subjects that are distinguished. All higher ones count as the last one.
const SUBJECTS: usize = 9;

/// The largest number of rows.
const ROWS_MAX: usize = u128::BITS as usize;

/// One row: the conditions, and the reason if they match.
struct Row {
    reason: Reason,
    /// Its texts, of which one must match. If empty, every text matches.
    texts: Range<usize>,
    /// The meanings in a language other than English that also match, as a bit set.
    words: u32,
    /// The same for English.
    english: u32,
    /// The meanings in English with which the row does not match, as a bit set.
    unless: u32,
    /// The statuses, of which one must match. If empty, every status matches.
    status: Vec<StatusPattern>,
    /// Whether the reason also holds for a reply to the content.
    after_content: bool,
}

impl ByStatus {
    fn new(rows: &[Row]) -> Self {
        use StatusPattern::{Any, Bare, Both, Class, Code, Details, Exact, Subject};
        let set = |can_match: &dyn Fn(&StatusPattern) -> bool| {
            let can_match = |row: &Row| row.status.is_empty() || row.status.iter().any(can_match);
            let rows = rows.iter().enumerate().filter(|(_, row)| can_match(row));
            rows.fold(0, |bits, (n, _)| bits | 1 << n)
        };
        let of = |class: StatusClass, subject: usize, pattern: &StatusPattern| {
            let (of_class, of_subject) = match *pattern {
                Any => return true,
                Bare | Code(_) => return false,
                Class(of_class) => return of_class == class,
                Subject(class, subject) | Details(class, subject, ..) => (class, subject),
                Exact(status) | Both(_, status) => (status.class(), status.subject()),
            };
            of_class == class && subject_of(of_subject) == subject
        };
        let mut with = [[0; SUBJECTS]; CLASSES.len()];
        for (subjects, class) in with.iter_mut().zip(CLASSES) {
            for (subject, rows) in subjects.iter_mut().enumerate() {
                *rows = set(&|pattern| of(class, subject, pattern));
            }
        }
        let without = set(&|pattern| matches!(pattern, Any | Bare | Class(_) | Code(_)));
        Self { with, without }
    }

    /// Returns the rows that `reply` can match, as far as its status is concerned.
    fn rows(&self, reply: &Reply) -> u128 {
        reply.status.map_or(self.without, |status| {
            let class = CLASSES.iter().position(|class| *class == status.class());
            class.map_or(0, |class| self.with[class][subject_of(status.subject())])
        })
    }
}

/// Returns the subject as it is distinguished.
fn subject_of(subject: u16) -> usize {
    usize::from(subject).min(SUBJECTS - 1)
}

impl Reasons {
    fn new(texts: Texts, words: Words, rows: Vec<Row>) -> Self {
        let row_of = rows
            .iter()
            .enumerate()
            .flat_map(|(n, row)| row.texts.clone().map(move |_| n));
        let mut row_of: Vec<usize> = row_of.collect();
        let set = |is_in: fn(&Row) -> bool| {
            let rows = rows.iter().enumerate().filter(|(_, row)| is_in(row));
            rows.fold(0, |bits, (n, _)| bits | 1 << n)
        };
        let (textless, by_words) = (
            set(|row| !row.reads_text()),
            set(|row| row.words | row.english != 0),
        );
        let ours = texts.len() - 1;
        // This text belongs to no row. A row that is always tried stands in for it.
        row_of.push(rows.iter().position(|row| !row.reads_text()).unwrap_or(0));
        let by_status = ByStatus::new(&rows);
        Self {
            texts,
            words,
            rows,
            row_of,
            textless,
            by_words,
            ours,
            by_status,
        }
    }

    /// Returns the first row that matches. If no words are known, words that are written as one
    /// (`RecipientNotFound`) are tried apart.
    fn row_for(&self, reply: &Reply) -> Option<&Row> {
        let row = self.row_in(reply, fold(&reply.text).as_bytes());
        if row.is_some_and(Row::reads_text) {
            return row;
        }
        match split_words(&reply.text) {
            Some(split) => self.row_in(reply, fold(&split).as_bytes()),
            None => row,
        }
    }

    /// Returns the first row that matches a reply with this text, which must be folded.
    fn row_in(&self, reply: &Reply, text: &[u8]) -> Option<&Row> {
        let sighting = self.words.sighting(text);
        let candidates = self.texts.candidates(text);
        // Only these rows can match, and those with a candidate text.
        let mut rows = self.textless | self.by_words;
        candidates.for_each(|text| rows |= 1 << self.row_of[text]);
        rows &= self.by_status.rows(reply);
        let is_excluded = |row: &Row| {
            row.unless != 0
                && (candidates.contains(self.ours) && sighting.has_in_english(row.unless)
                    || !text.is_ascii() && sighting.has(row.unless))
        };
        while rows != 0 {
            let row = &self.rows[rows.trailing_zeros() as usize];
            rows &= rows - 1;
            let by_status =
                row.status.is_empty() || row.status.iter().any(|status| status.matches(reply));
            let by_text = || {
                !row.reads_text()
                    || !row.texts.is_empty()
                        && self.texts.any_matches(&row.texts, &candidates, text)
                    || sighting.has(row.words)
                    || sighting.has_in_english(row.english)
            };
            if by_status && by_text() && !is_excluded(row) {
                return Some(row);
            }
        }
        None
    }
}

impl Row {
    /// Whether the text must match, and not only the status.
    fn reads_text(&self) -> bool {
        !self.texts.is_empty() || self.words | self.english != 0
    }

    /// Returns the row's reason, corrected by the stage that the reply answered. In answer to the
    /// connection, "unknown" is about us. In answer to the sender, it is about the sender. In
    /// answer to the content, it comes from a content filter, because the recipient had been
    /// accepted before. The exceptions are a row with `after_content`, and reasons that imply that
    /// the mailbox exists.
    fn reason_for(&self, reply: &Reply) -> Reason {
        use Reason::{
            Blocked, Filtered, HostUnknown, MailboxAbandoned, MailboxDisabled, Moved, NotAccepting,
            SenderRejected, UserUnknown,
        };
        let mailbox_exists = matches!(self.reason, MailboxAbandoned | MailboxDisabled);
        if !mailbox_exists
            && !matches!(
                self.reason,
                Filtered | HostUnknown | Moved | NotAccepting | UserUnknown
            )
        {
            return self.reason;
        }
        match reply.stage() {
            Some(Stage::Session) => Blocked,
            Some(Stage::Mail) => SenderRejected,
            Some(Stage::Content) if !mailbox_exists && !self.after_content => Filtered,
            _ => self.reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_has_the_reason_of_its_row() {
        let wrong: Vec<_> = load::examples(ROWS)
            .into_iter()
            .map(|row| (row.reason, recognize(&Reply::parse(&row.text)), row.text))
            .filter(|(reason, found, _)| *found != Some(*reason))
            .collect();
        assert!(wrong.is_empty(), "row, found, example: {wrong:#?}");
    }

    #[test]
    fn the_stage_that_a_reply_answered_changes_its_reason() {
        for (raw, in_reply_to, reason) in [
            ("550 user unknown", "MAIL FROM", "sender_rejected"),
            ("550 5.1.1 sorry", "MAIL FROM", "sender_rejected"),
            ("550 host unknown", "MAIL FROM", "sender_rejected"),
            ("550 account closed", "MAIL FROM", "sender_rejected"),
            (
                "452 Insufficient system storage",
                "MAIL FROM",
                "system_full",
            ),
            (
                "554 Client host [192.0.2.1] blocked",
                "MAIL FROM",
                "blocked",
            ),
            ("550 5.1.1 host unknown", "EHLO", "blocked"),
            ("550 user unknown", "AUTH", "blocked"),
            ("550 user unknown", "RCPT TO", "user_unknown"),
            ("550 user unknown", "end of DATA", "filtered"),
            ("550 account closed", "end of DATA", "filtered"),
            (
                "550 not collected for 40 days",
                "end of DATA",
                "mailbox_abandoned",
            ),
            (
                "554 this user doesn't have an example.com account",
                "end of DATA",
                "user_unknown",
            ),
            (
                "554 authenticated user jo@example.com does not have an account",
                "end of DATA",
                "filtered",
            ),
            (
                "554 this customer does not have an SMTP account",
                "end of DATA",
                "filtered",
            ),
            (
                "554 this user doesn't have an example.com account",
                "MAIL FROM",
                "sender_rejected",
            ),
            (
                "451 service unavailable",
                "end of DATA",
                "system_not_accepting",
            ),
        ] {
            let raw = format!("{raw} (in reply to {in_reply_to} command)");
            assert_eq!(
                recognize(&Reply::parse(&raw)).map(Reason::as_str),
                Some(reason),
                "{raw}"
            );
        }
    }

    #[test]
    fn every_text_can_be_compiled() {
        let texts = &TABLE.texts;
        assert!((0..texts.len()).all(|text| texts.compiled(text).is_some()));
    }

    #[test]
    fn every_reason_has_a_row() {
        let rows = &TABLE.rows;
        for (word, reason) in REASONS {
            assert!(rows.iter().any(|row| row.reason == *reason), "{word}");
        }
    }

    #[test]
    fn a_reply_without_any_explanation_has_no_reason() {
        for raw in [
            "",
            "550",
            "550 5.0.0 no",
            "451 4.0.0 hm",
            "250 2.0.0 Ok",
            "Grüße",
        ] {
            assert_eq!(recognize(&Reply::parse(raw)), None, "{raw:?}");
        }
    }
}
