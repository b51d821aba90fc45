//! Several replies that were written one after the other in one text, as programs do that join a
//! conversation into one line. The last permanent one decides.

use super::{BAD_SEQUENCE, Head, class_of, code_at, is_in_use, status_at, without_openers};
use crate::status::StatusClass;

/// The permanent codes that a reply without a status can have. Other numbers are more often part of
/// a text.
const PERMANENT: [u16; 10] = [521, 525, 530, 550, 551, 552, 553, 554, 555, 556];

/// The answer to content without a recipient, in lower case. It follows the reply that matters.
const NO_RECIPIENTS: [&str; 3] = ["no valid rec", "error: no valid", "need rcpt"];

/// Words after which a number is not a code, in lower case.
const BEFORE_NUMBER: [&str; 16] = [
    "of", "than", "code", "error", "line", "limit", "at", "page", "to", "over", "in", "max",
    "least", "about", "after", "rfc",
];

/// Words that count something: the number before them is not a code.
const COUNTED: [&str; 14] = [
    "message",
    "mail",
    "email",
    "recipient",
    "mb",
    "kb",
    "gb",
    "byte",
    "second",
    "minute",
    "hour",
    "day",
    "per",
    "connection",
];

impl<'a> Head<'a> {
    /// Returns the head of the last permanent reply in the text after this one, if there is one and
    /// it differs from this one. Otherwise returns this one. Takes linear time.
    pub(super) fn of_last_permanent(self) -> Self {
        let Some(first) = self.code.filter(|code| *code >= 400) else {
            return self;
        };
        // The loop has no early exit, so that the compiler can process many bytes per step.
        let bytes = self.rest.as_bytes();
        let pairs = bytes.iter().zip(bytes.get(1..).unwrap_or_default());
        let begins = |(before, digit): (&u8, &u8)| {
            u8::from(*digit == b'5') & (u8::from(*before == b' ') | u8::from(*before == b'\n'))
        };
        if pairs.fold(0, |found, pair| found | begins(pair)) == 0 {
            return self;
        }
        let mut last = self;
        for (at, _) in self.rest.match_indices('5') {
            let (before, text) = self.rest.split_at(at);
            if !before.ends_with([' ', '\n']) {
                continue;
            }
            let Some((code, after)) = code_at(text) else {
                continue;
            };
            let after = after.strip_prefix([' ', '-', '\n']).unwrap_or_default();
            let status = status_at(without_openers(after))
                .map(|(status, _)| status)
                .filter(|status| status.class() == StatusClass::Permanent && is_in_use(*status));
            let is_reply = match status {
                Some(_) => true,
                None => {
                    class_of(first) == Some(StatusClass::Transient) && is_code(before, code, after)
                }
            };
            let is_same = self.code == Some(code)
                && (self.status.is_none() || status.is_none() || self.status == status);
            if is_reply && !is_same && code != BAD_SEQUENCE && !is_without_recipients(after) {
                last = Self::at_start(text).unwrap_or(last);
            }
        }
        last
    }
}

/// Whether a number between these texts is the code of a reply without a status.
fn is_code(before: &str, code: u16, after: &str) -> bool {
    let word_before = before.trim_end().rsplit(' ').next().unwrap_or_default();
    let word_after = after
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    PERMANENT.contains(&code)
        && !word_before.ends_with(':')
        && after.starts_with(|c: char| c.is_alphabetic() || c == '<' || c == '#')
        && !BEFORE_NUMBER.contains(&word_before.to_ascii_lowercase().as_str())
        && !COUNTED.iter().any(|word| word_after.starts_with(word))
}

/// Whether a reply begins with the words for content without a recipient.
fn is_without_recipients(text: &str) -> bool {
    let words = text.trim_start_matches(|c: char| !c.is_alphabetic());
    NO_RECIPIENTS.iter().any(|opening| {
        let start = words.as_bytes().get(..opening.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(opening.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Reply;

    #[test]
    fn the_last_permanent_of_several_replies_decides() {
        for (raw, decides) in [
            ("450 4.2.0 try later 550 5.1.1 nobody", "550 5.1.1 nobody"),
            (
                "450 busy 551 not our user 503 need RCPT",
                "551 not our user 503 need RCPT",
            ),
            ("550 5.1.1 nobody 552 5.2.2 full", "552 5.2.2 full"),
            ("451 4.7.1 said: 550 5.1.1 nobody", "550 5.1.1 nobody"),
            (
                "550 5.1.1 nobody 503 5.0.0 need RCPT",
                "550 5.1.1 nobody 503 5.0.0 need RCPT",
            ),
            (
                "450 4.7.1 rejected 554 5.5.1 Error: no valid recipients",
                "450 4.7.1 rejected 554 5.5.1 Error: no valid recipients",
            ),
            (
                "554 5.4.7 expired <450 4.1.1 no>",
                "554 5.4.7 expired <450 4.1.1 no>",
            ),
            (
                "452 4.5.3 limit of 550 reached",
                "452 4.5.3 limit of 550 reached",
            ),
            ("452 4.5.3 only 550 messages", "452 4.5.3 only 550 messages"),
            ("450 see 192.0.2.1 550", "450 see 192.0.2.1 550"),
        ] {
            assert_eq!(Reply::parse(raw).to_string(), decides, "{raw}");
        }
    }
}
