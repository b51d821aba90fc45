//! Why mail failed, read from a reply's text, code and status. One ordered table, `reasons.toml`,
//! in which the first row that matches wins; what is done about a reason is the policy table's
//! business. Knows neither.

use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use domain::reply::Reply;
use domain::reply::stage::Stage;
use domain::status::pattern::StatusPattern;
use serde::{Serialize, Serializer};

use texts::Texts;

mod load;
mod pieces;
mod texts;

/// The rows, in order, each with an example that the tests check.
const ROWS: &str = include_str!("reasons.toml");

static TABLE: LazyLock<Reasons> = LazyLock::new(|| {
    load::reasons(ROWS).expect("the tests load the table of reasons, which ships with the program")
});

/// Declares [`Reason`] and the words for it side by side, so that neither can be forgotten.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $word:literal,)*) => {
        /// Why a message failed, by the field's names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])* $name,)* }

        /// Reasons by their words.
        pub const REASONS: &[(&str, Reason)] = &[$(($word, Reason::$name),)*];

        impl Reason {
            /// The word used in files and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

reasons! {
    /// There is no such recipient.
    UserUnknown = "user_unknown",
    /// The recipient's domain or host does not exist.
    HostUnknown = "host_unknown",
    /// The recipient is not here any more.
    Moved = "moved",
    /// The recipient's domain takes no mail at all (RFC 7504, RFC 7505).
    NotAccepting = "not_accepting",
    /// The mailbox is over its quota.
    MailboxFull = "mailbox_full",
    /// The mailbox is there and switched off, locked or suspended.
    MailboxDisabled = "mailbox_disabled",
    /// The mailbox is there, and nobody has fetched its mail for a month or longer.
    MailboxAbandoned = "mailbox_abandoned",
    /// The mail system has no room.
    SystemFull = "system_full",
    /// The mail system takes no mail at the moment.
    SystemNotAccepting = "system_not_accepting",
    /// We are to come again, and nobody says why.
    TryLater = "try_later",
    /// The mail system is at fault itself.
    SystemError = "system_error",
    /// Our IP address or host is on a list or has a bad name.
    Blocked = "blocked",
    /// Our host has no name in the DNS, or not the one that it says.
    ReverseDns = "reverse_dns",
    /// SPF, DKIM or DMARC says that the mail is not ours to send.
    AuthFailure = "auth_failure",
    /// The sender's address or domain is refused.
    SenderRejected = "sender_rejected",
    /// The server does not handle mail for this domain, or wants us to log in.
    RelayingDenied = "relaying_denied",
    /// The server asks for TLS, or TLS failed.
    TlsFailure = "tls_failure",
    /// We send faster than the recipient or the server takes it.
    RateLimited = "rate_limited",
    /// We have too many connections open, or too much was sent on one.
    TooManyConnections = "too_many_connections",
    /// A stranger has to come again.
    Greylisted = "greylisted",
    /// The message is larger than allowed.
    TooBig = "too_big",
    /// The message has more recipients than allowed.
    TooManyRecipients = "too_many_recipients",
    /// The message is taken for spam.
    Spam = "spam",
    /// The message is taken for a virus.
    Virus = "virus",
    /// The message's form or content is refused.
    Content = "content",
    /// The recipient does not want this mail.
    Filtered = "filtered",
    /// A rule of the recipient's mail system forbids it.
    Policy = "policy",
    /// Somebody on the way tried until the time was over.
    Expired = "expired",
    /// A connection could not be made or kept.
    NetworkError = "network_error",
    /// A name could not be looked up at the moment.
    LookupFailed = "lookup_failed",
    /// The message went in circles.
    RoutingLoop = "routing_loop",
    /// Client and server did not understand each other.
    ProtocolError = "protocol_error",
    /// It failed for good, and nobody says why.
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

/// Why the mail failed, if the reply says so. Pure, and linear in the text, of which a reply has at
/// most 1 KiB.
pub fn of(reply: &Reply) -> Option<Reason> {
    Some(TABLE.of(reply)?.in_reply_to(reply))
}

/// The replies that the table gives as examples of its rows, one after the other: for measuring,
/// and for tests.
pub fn examples() -> Vec<String> {
    load::examples(ROWS)
        .into_iter()
        .map(|(_, example)| example)
        .collect()
}

/// The rows of the table, in their order.
struct Reasons {
    texts: Texts,
    /// At most [`ROWS_MAX`].
    rows: Vec<Row>,
    /// The row of each text.
    row_of: Vec<usize>,
    /// The rows without a text, as bits.
    textless: u128,
}

/// How many rows there can be.
const ROWS_MAX: usize = u128::BITS as usize;

/// One row: what has to match, and what it then is.
struct Row {
    reason: Reason,
    /// Its texts, of which one must match; none where any text will do.
    texts: Range<usize>,
    /// One of these must match; any status will do where there is none.
    status: Vec<StatusPattern>,
    /// Whether it means so in answer to the content as well.
    after_content: bool,
}

impl Reasons {
    fn new(texts: Texts, rows: Vec<Row>) -> Self {
        let row_of = rows
            .iter()
            .enumerate()
            .flat_map(|(n, row)| row.texts.clone().map(move |_| n))
            .collect();
        let textless = rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.texts.is_empty());
        let textless = textless.fold(0, |bits, (n, _)| bits | 1 << n);
        Self {
            texts,
            rows,
            row_of,
            textless,
        }
    }

    fn of(&self, reply: &Reply) -> Option<&Row> {
        let text = reply.text.to_ascii_lowercase();
        let text = text.as_bytes();
        let candidates = self.texts.candidates(text);
        // Only the rows that have a candidate, or no text at all, can match.
        let mut rows = self.textless;
        for text in candidates.all() {
            rows |= 1 << self.row_of[text];
        }
        while rows != 0 {
            let row = &self.rows[rows.trailing_zeros() as usize];
            rows &= rows - 1;
            let by_status =
                row.status.is_empty() || row.status.iter().any(|status| status.matches(reply));
            if by_status && (row.texts.is_empty() || self.texts.any(&row.texts, &candidates, text))
            {
                return Some(row);
            }
        }
        None
    }
}

impl Row {
    /// Its reason in a reply that notes what it answered. A name that is unknown in answer to the
    /// sender is the sender's. In answer to the content it is a filter's word, since the recipient
    /// had been accepted before, unless the row knows better.
    fn in_reply_to(&self, reply: &Reply) -> Reason {
        use Reason::{
            Filtered, HostUnknown, MailboxAbandoned, MailboxDisabled, Moved, NotAccepting,
            SenderRejected, UserUnknown,
        };
        let in_use = matches!(self.reason, MailboxAbandoned | MailboxDisabled);
        if !in_use
            && !matches!(
                self.reason,
                Filtered | HostUnknown | Moved | NotAccepting | UserUnknown
            )
        {
            return self.reason;
        }
        match reply.answers() {
            Some(Stage::Mail) => SenderRejected,
            Some(Stage::Content) if !in_use && !self.after_content => Filtered,
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
            .map(|(reason, example)| (reason, of(&Reply::parse(&example)), example))
            .filter(|(reason, found, _)| *found != Some(*reason))
            .collect();
        assert!(wrong.is_empty(), "row, found, example: {wrong:#?}");
    }

    #[test]
    fn what_a_reply_answered_is_a_part_of_its_reason() {
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
                of(&Reply::parse(&raw)).map(Reason::as_str),
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
    fn a_reply_that_says_nothing_has_no_reason() {
        for raw in [
            "",
            "550",
            "550 5.0.0 no",
            "451 4.0.0 hm",
            "250 2.0.0 Ok",
            "Grüße",
        ] {
            assert_eq!(of(&Reply::parse(raw)), None, "{raw:?}");
        }
    }
}
