//! Replies: what is read is within bounds, on one line, and the same when it is printed and read
//! again.

use classify::fingerprint::fingerprint;
use classify::{hint, reason};
use domain::reply::{MAX_TEXT, Reply};
use domain::status::StatusClass;
use policy::table::Table;

use crate::is_one_line;

/// The longest word that a fingerprint puts in the place of another; the shortest of those is `::`.
const TOKEN_MAX: usize = "{timestamp}".len();

/// Reads any bytes as a reply.
///
/// # Panics
/// Where something does not hold of the reply.
pub fn hold_of(bytes: &[u8]) {
    let raw = String::from_utf8_lossy(bytes);
    let reply = Reply::parse(&raw);
    hold_of_reply(&reply);
    hold_together(&reply);
    assert_eq!(
        reply.text,
        reply.text.trim(),
        "nothing stands around the text"
    );

    // A job's history has replies as text. What has no code may have words at its start that read
    // as one by then.
    if reply.code.is_some() {
        let again = Reply::parse(&reply.to_string());
        assert_eq!(
            (again.code, again.status),
            (reply.code, reply.status),
            "{reply} reads otherwise"
        );
    }

    // Whatever it says, policy has a row for it.
    Table::embedded().row(&reply, "default", None, "example.com");
    reason::of(&reply);
    hint::hint(&reply.text);

    for text in [raw.as_ref(), &reply.text] {
        let print = fingerprint(text);
        let words = text.split_ascii_whitespace().count();
        assert!(
            print.len() <= text.len() * TOKEN_MAX / 2 + TOKEN_MAX,
            "a fingerprint has no more than its text"
        );
        assert!(
            print.split(' ').count() <= words.max(1),
            "{print} has more words than {text}"
        );
    }
}

/// What holds of every reply, wherever it was quoted.
pub(crate) fn hold_of_reply(reply: &Reply) {
    assert!(
        reply.text.len() <= MAX_TEXT && is_one_line(&reply.text),
        "{reply:?}"
    );
    assert!(
        reply.code.is_none_or(|code| (200..600).contains(&code)),
        "{reply:?}"
    );
}

/// Code and status do not say the opposite of each other. Reports may, of what got through or is
/// still being tried.
pub(crate) fn hold_together(reply: &Reply) {
    if let (Some(code), Some(status)) = (reply.code, reply.status) {
        assert_eq!(
            code < 400,
            status.class() == StatusClass::Success,
            "only one of them says success: {reply:?}"
        );
    }
}
