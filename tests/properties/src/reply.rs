//! A parsed reply is within bounds and on one line. Printed and parsed again, it has the same code
//! and status.

use classify::fingerprint::fingerprint;
use classify::{hint, reason};
use domain::reply::{MAX_TEXT, Reply};
use domain::status::StatusClass;
use policy::table::Table;

use crate::is_one_line;

/// The length of the longest placeholder in a fingerprint. The shortest word that a placeholder
/// replaces has 2 bytes: the IPv6 address `::`.
const PLACEHOLDER_MAX: usize = "{timestamp}".len();

/// Parses any bytes as a reply.
///
/// # Panics
/// If the reply breaks a property.
pub fn check(bytes: &[u8]) {
    let raw = String::from_utf8_lossy(bytes);
    let reply = Reply::parse(&raw);
    check_reply(&reply);
    check_code_and_status(&reply);
    assert_eq!(
        reply.text,
        reply.text.trim(),
        "the text begins or ends with white space"
    );

    // The history of a job stores replies as text. A reply without a code is not checked: its text
    // may begin with words that look like a code.
    if reply.code.is_some() {
        let again = Reply::parse(&reply.to_string());
        assert_eq!(
            (again.code, again.status),
            (reply.code, reply.status),
            "{reply} is parsed differently"
        );
    }

    // The policy has a row for every reply.
    Table::embedded().row(&reply, "default", None, "example.com");
    reason::recognize(&reply);
    hint::hint(&reply.text);

    for text in [raw.as_ref(), &reply.text] {
        let shortened = fingerprint(text);
        let words = text.split_ascii_whitespace().count();
        assert!(
            shortened.len() <= text.len() * PLACEHOLDER_MAX / 2 + PLACEHOLDER_MAX,
            "{shortened} is too long for {text}"
        );
        assert!(
            shortened.split(' ').count() <= words.max(1),
            "{shortened} has more words than {text}"
        );
    }
}

/// Checks the properties of every reply, including replies that a report or a log quotes.
pub(crate) fn check_reply(reply: &Reply) {
    assert!(
        reply.text.len() <= MAX_TEXT && is_one_line(&reply.text),
        "{reply:?}"
    );
    assert!(
        reply.code.is_none_or(|code| (200..600).contains(&code)),
        "{reply:?}"
    );
}

/// Checks that code and status do not contradict each other. They may do so only in a report about
/// a message that was delivered or is still being tried.
pub(crate) fn check_code_and_status(reply: &Reply) {
    if let (Some(code), Some(status)) = (reply.code, reply.status) {
        assert_eq!(
            code < 400,
            status.class() == StatusClass::Success,
            "code and status contradict each other: {reply:?}"
        );
    }
}
