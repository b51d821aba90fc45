//! An SMTP reply as bounces, logs and conversations contain it: code, enhanced status and text (RFC
//! 5321, section 4.2; RFC 2034). Reading one never fails, because bad mail is data. What to do
//! about a reply is the job of the crate `policy`.

use std::fmt;

use crate::status::{EnhancedStatus, StatusClass};
use fold::fold;

mod fold;
pub mod stage;

/// The most text that a [`Reply`] keeps, in bytes.
pub const MAX_TEXT: usize = 1024;

/// How much of the input is read, in bytes. The longest real replies are much shorter.
const MAX_RAW: usize = 16 * 1024;

/// Characters that may come before a code or a status: `(#5.1.1)`, `<<< 550`, `'550 5.1.1`.
const OPENERS: [char; 7] = ['#', '(', '[', '<', '\'', '"', ' '];

/// Characters that may separate code, status and text: `550-5.1.1`, `550 : no`, `(5.1.1) no`.
const SEPARATORS: [char; 8] = [' ', '\n', '-', ':', ';', ',', ')', ']'];

/// What mail systems write between their own words and the reply that they quote. Each ends in a
/// colon or an angle bracket.
const LEAD_INS: [&str; 9] = [
    " said:",
    "talk to me:",
    " was:",
    "reason:",
    "connection:",
    "end of data:",
    "]:",
    ">:",
    "<<<",
];

/// The answer to a command in the wrong order, which follows the reply that matters. It says
/// nothing about the address.
const BAD_SEQUENCE: u16 = 503;

/// The highest detail in use for each of the subjects 0 to 7: from IANA's registry (RFC 5248), plus
/// what large providers use.
const LAST_DETAILS: [u16; 8] = [0, 10, 4, 6, 7, 6, 11, 40];

/// The reply of a mail system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reply {
    /// The three-digit code, 200 to 599.
    pub code: Option<u16>,
    /// The enhanced status. It is kept even if the code is of the other class of failure (`550
    /// 4.2.1`), because the status is more specific. If only one of them means success, the code
    /// decides (RFC 5321, section 4.2) and the status is left out.
    pub status: Option<EnhancedStatus>,
    /// The text for people: one line without the leading code and status, at most [`MAX_TEXT`]
    /// bytes. If another mail system quotes the reply and names the stage that it answered, the
    /// stage is appended in Postfix's form: `(in reply to RCPT TO command)`.
    pub text: String,
}

impl Reply {
    /// Reads a reply in any form in which it was passed on: bare, of several lines, with a
    /// diagnostic type (`smtp; 550 …`, RFC 3464, section 2.3.6), or quoted by another mail system
    /// (`host mx said: 450 …`). Takes time linear in its input, and reads only its first 16 KiB.
    pub fn parse(raw: &str) -> Self {
        let folded = fold(cut(raw, MAX_RAW));
        let whole = without_diagnostic_type(&folded).trim_start_matches(SEPARATORS);
        let quoted = || Head::after_lead_in(whole).or_else(|| Head::within(whole));
        let (head, is_quoted) = match Head::at_start(whole) {
            Some(head) => (head, false),
            None => quoted().map_or(
                (
                    Head {
                        code: None,
                        status: None,
                        rest: whole,
                    },
                    false,
                ),
                |head| (head, true),
            ),
        };
        let status = head.status.or_else(|| status_within(head.rest, head.code));
        let mut reply = Self {
            code: head.code,
            status,
            text: human_text(head.rest, head.code, status),
        };
        if is_quoted {
            stage::note(&mut reply, &whole[..whole.len() - head.rest.len()]);
        }
        reply
    }

    /// Returns the class of the status, else that of the code's first digit. Returns `None` if
    /// there is neither.
    pub fn class(&self) -> Option<StatusClass> {
        self.status
            .map(EnhancedStatus::class)
            .or_else(|| self.code.and_then(class_of))
    }

    /// Whether the reply contains nothing to interpret: no code, no status and no word.
    pub fn is_unreadable(&self) -> bool {
        self.code.is_none() && self.status.is_none() && !self.text.contains(char::is_alphabetic)
    }

    /// Whether the reply means success.
    pub fn is_success(&self) -> bool {
        self.class() == Some(StatusClass::Success)
    }
}

/// One line, as a server would send it: `452 4.3.1 text`. Parts that are not known are left out.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        if let Some(code) = self.code {
            write!(f, "{code}")?;
            space = " ";
        }
        if let Some(status) = self.status {
            write!(f, "{space}{status}")?;
            space = " ";
        }
        if self.text.is_empty() {
            Ok(())
        } else {
            write!(f, "{space}{}", self.text)
        }
    }
}

/// The head of a reply: its code, its status or both, and the text after them.
#[derive(Clone, Copy)]
struct Head<'a> {
    code: Option<u16>,
    status: Option<EnhancedStatus>,
    rest: &'a str,
}

impl<'a> Head<'a> {
    /// Returns the head at the start of `text`.
    fn at_start(text: &'a str) -> Option<Self> {
        let text = without_openers(text);
        let Some((code, rest)) = code_at(text) else {
            let (status, rest) = status_at(text).filter(|(status, _)| is_in_use(*status))?;
            return Some(Self {
                code: None,
                status: Some(status),
                rest: without_separators(rest),
            });
        };
        let rest = without_separators(rest);
        match status_at(without_openers(rest.trim_start_matches(SEPARATORS))) {
            Some((status, rest)) if (status.class() == StatusClass::Success) == (code < 400) => {
                Some(Self {
                    code: Some(code),
                    status: Some(status),
                    rest: without_separators(rest),
                })
            }
            _ => Some(Self {
                code: Some(code),
                status: None,
                rest,
            }),
        }
    }

    /// Returns the first failure that another mail system quotes: `host mx.example.com[192.0.2.1]
    /// said: 450 busy`.
    fn after_lead_in(text: &'a str) -> Option<Self> {
        text.match_indices([':', '<'])
            .map(|(at, mark)| text.split_at(at + mark.len()))
            .filter_map(|(before, after)| Some((before, after.strip_prefix([' ', '\n'])?)))
            .filter(|(before, _)| LEAD_INS.iter().any(|lead_in| before.ends_with(lead_in)))
            .filter_map(|(_, after)| Self::at_start(after))
            .find(|head| head.code.is_some_and(|code| code >= 400))
    }

    /// Returns the first failure whose code and status are next to each other within other words:
    /// `returned '550 5.1.1 no such user'`.
    fn within(text: &'a str) -> Option<Self> {
        statuses(text)
            .filter_map(|(at, _)| code_before(&text[..at]))
            .find(|(_, code)| *code >= 400 && *code != BAD_SEQUENCE)
            .and_then(|(at, _)| Self::at_start(&text[at..]))
    }
}

/// Returns the first status within `text` that can belong to this reply. It must be in use, because
/// versions and dates look like a status. It must be of the code's class. It must not follow a
/// different code, because then it answers another command.
fn status_within(text: &str, code: Option<u16>) -> Option<EnhancedStatus> {
    statuses(text)
        .filter(|(_, status)| is_in_use(*status))
        .filter(|(_, status)| match code {
            Some(code) => class_of(code) == Some(status.class()),
            None => status.class() != StatusClass::Success,
        })
        .find(|(at, _)| code_before(&text[..*at]).is_none_or(|(_, before)| Some(before) == code))
        .map(|(_, status)| status)
}

/// Returns every status within `text` that is not part of a longer word, with its position.
fn statuses(text: &str) -> impl Iterator<Item = (usize, EnhancedStatus)> {
    text.match_indices(['2', '4', '5']).filter_map(|(at, _)| {
        let before = &text[..at];
        let is_part_of_word =
            before.ends_with(|c| c == '.' || is_word(c)) && code_before(before).is_none();
        if is_part_of_word || before.ends_with("version ") {
            None
        } else {
            status_at(&text[at..]).map(|(status, _)| (at, status))
        }
    })
}

/// Returns `text` without the characters that may come before a code or a status. At most four are
/// removed. So a long run of them does not cost more per character, although the search starts
/// again at each of them.
fn without_openers(text: &str) -> &str {
    (0..4).fold(text, |text, _| text.strip_prefix(OPENERS).unwrap_or(text))
}

/// Returns `text` without the separators at its start. A colon with a space on each side is kept as
/// part of the text: some servers write `550 <jo@example.com>: user unknown` without the address,
/// and then the colon is the only sign of that. Two colons are kept because they begin an IPv6
/// address.
fn without_separators(text: &str) -> &str {
    let past = text.trim_start_matches(SEPARATORS);
    let passed = &text[..text.len() - past.len()];
    if passed.ends_with(" : ") || passed.ends_with("::") {
        &text[text.len() - past.len() - 2..]
    } else {
        past
    }
}

/// Returns the status at the start of `text`, and the text after it.
fn status_at(text: &str) -> Option<(EnhancedStatus, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let status = text[..end].trim_end_matches('.').parse().ok()?;
    let rest = &text[end..];
    (!rest.starts_with(is_word)).then_some((status, rest))
}

/// Returns the code at the start of `text`, and the text after it. `203.0.113.9`, `500MB` and
/// `512@example.com` contain no code.
fn code_at(text: &str) -> Option<(u16, &str)> {
    let (digits, rest) = text.split_at_checked(3)?;
    let all_digits = digits.bytes().all(|b| b.is_ascii_digit());
    let code = digits
        .parse()
        .ok()
        .filter(|code| all_digits && (200..600).contains(code))?;
    let continues = rest
        .trim_start_matches('.')
        .starts_with(|c| c != '-' && is_word(c));
    (!continues).then_some((code, rest))
}

/// Returns the code at the end of `before`, and its position.
fn code_before(before: &str) -> Option<(usize, u16)> {
    let before = before
        .trim_end_matches(SEPARATORS)
        .trim_end_matches(OPENERS);
    let at = before.len().checked_sub(3)?;
    let (ahead, digits) = before.split_at_checked(at)?;
    let (code, _) = code_at(digits)?;
    (!ahead.ends_with(|c| c == '.' || is_word(c))).then_some((at, code))
}

/// Whether `c` continues a word such as a number, a domain, a path or a version. Only ASCII letters
/// count, because scripts without spaces write a status directly next to their letters.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '@' | '_' | '+' | '%')
}

/// Whether mail systems use this status. Providers number their own statuses from 100 (`4.7.650`).
fn is_in_use(status: EnhancedStatus) -> bool {
    LAST_DETAILS
        .get(usize::from(status.subject()))
        .is_some_and(|last| status.detail() <= *last || status.detail() >= 100)
}

/// Returns the class of a code's first digit; `None` for 3xx.
fn class_of(code: u16) -> Option<StatusClass> {
    u8::try_from(code / 100)
        .ok()
        .and_then(StatusClass::from_digit)
}

/// Returns `text` without the diagnostic type of a DSN, as in `smtp; 550 …` or `X-Postfix;
/// host …`.
fn without_diagnostic_type(text: &str) -> &str {
    match text.split_once(';') {
        Some((kind, rest))
            if kind.eq_ignore_ascii_case("smtp") || kind.eq_ignore_ascii_case("lmtp") =>
        {
            rest
        }
        Some((kind, rest)) if kind.starts_with(['x', 'X']) && !kind.contains([' ', '\n']) => rest,
        _ => text,
    }
}

/// Returns the text for people in `rest`, on one line. The code and status that each line of a
/// reply repeats (RFC 5321, section 4.2.1) are removed: at the start of a line, and also within a
/// line if lines were joined on the way.
fn human_text(rest: &str, code: Option<u16>, status: Option<EnhancedStatus>) -> String {
    // The code, if it occurs again. The loop has no early exit, so that the compiler can process
    // many bytes per step.
    let repeated_code = code.filter(|code| {
        let digits = [code / 100, code / 10 % 10, code % 10]
            .map(|digit| b'0' + u8::try_from(digit).unwrap_or(0));
        let is_code = |three: &[u8]| {
            (three[0] == digits[0]) & (three[1] == digits[1]) & (three[2] == digits[2])
        };
        rest.as_bytes()
            .windows(3)
            .fold(false, |found, three| found | is_code(three))
    });
    let replaced;
    let rest = match (repeated_code, status) {
        (Some(code), Some(status)) => {
            replaced = rest
                .replace(&format!(" {code}-{status} "), "\n")
                .replace(&format!(" {code} {status} "), "\n");
            &replaced
        }
        _ => rest,
    };
    let repeats = |head: &Head<'_>| {
        head.code.is_some() && head.code == code && (head.status.is_none() || head.status == status)
    };
    let mut lines = rest.split('\n').map(|line| match Head::at_start(line) {
        Some(head) if repeats(&head) => head.rest,
        _ => line,
    });
    if !rest.contains('\n') {
        let line = lines.next().unwrap_or_default();
        return cut(line.trim_start(), MAX_TEXT).trim_end().to_owned();
    }
    let text = lines.collect::<Vec<_>>().join(" ");
    cut(text.trim_start(), MAX_TEXT).trim_end().to_owned()
}

/// Returns `text` cut to at most `max` bytes, at a character boundary.
fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses `raw` and returns the result as `code status text`, with `-` for a missing code or
    /// status.
    fn read(raw: &str) -> String {
        let reply = Reply::parse(raw);
        let code = reply.code.map_or("-".to_owned(), |code| code.to_string());
        let status = reply
            .status
            .map_or("-".to_owned(), |status| status.to_string());
        format!("{code} {status} {}", reply.text)
    }

    #[test]
    fn code_status_and_text_are_separated() {
        for (raw, expected) in [
            (
                "452 4.3.1 Insufficient system storage",
                "452 4.3.1 Insufficient system storage",
            ),
            ("250 2.0.0 Ok", "250 2.0.0 Ok"),
            ("550", "550 - "),
            ("550 5.1.1", "550 5.1.1 "),
            ("550-5.1.1 no such user", "550 5.1.1 no such user"),
            ("550 - no such user", "550 - no such user"),
            ("550 : no such user", "550 - : no such user"),
            ("421 4.1.0 ::1 is too fast", "421 4.1.0 ::1 is too fast"),
            ("550 5.1.1: no such user", "550 5.1.1 no such user"),
            ("550: 5.2.2 over quota", "550 5.2.2 over quota"),
            ("554 #4.3.2 later", "554 4.3.2 later"),
            ("550 (#5.1.1) no such user", "550 5.1.1 no such user"),
            ("550 [5.1.1]: no such user", "550 5.1.1 no such user"),
            ("4.3.1 system full", "- 4.3.1 system full"),
            ("451 later", "451 - later"),
            ("421 421 busy", "421 - busy"),
            ("Mailbox full", "- - Mailbox full"),
            (
                "mailbox is disabled (5.2.1).",
                "- 5.2.1 mailbox is disabled (5.2.1).",
            ),
            (
                "メールボックスがいっぱいです",
                "- - メールボックスがいっぱいです",
            ),
            ("宛先エラー5.1.1です", "- 5.1.1 宛先エラー5.1.1です"),
            (
                "452 4.2.2 La boîte aux lettres est pleine",
                "452 4.2.2 La boîte aux lettres est pleine",
            ),
            ("", "- - "),
        ] {
            assert_eq!(read(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn a_status_is_found_behind_other_words() {
        for (raw, expected) in [
            (
                "550-Requested action not taken: 5.1.1 nobody here",
                "550 5.1.1 Requested action not taken: 5.1.1 nobody here",
            ),
            (
                "452 <jo@example.com>: 4.2.2 over quota",
                "452 4.2.2 <jo@example.com>: 4.2.2 over quota",
            ),
            (
                "550 no such user - 5.1.1.",
                "550 5.1.1 no such user - 5.1.1.",
            ),
            (
                "550 host mx said: 550 5.7.1 blocked",
                "550 5.7.1 host mx said: blocked",
            ),
        ] {
            assert_eq!(read(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn a_reply_is_found_in_the_words_of_another_system() {
        for (raw, expected) in [
            ("smtp;550 5.1.1 nobody", "550 5.1.1 nobody"),
            ("SMTP; 421 busy", "421 - busy"),
            (
                "x-local; host mx.example.com[192.0.2.1] said: 450 4.2.1 later",
                "450 4.2.1 later",
            ),
            ("host mx.example.com [192.0.2.1]: 451 later", "451 - later"),
            (
                "error after RCPT TO:<jo@example.com>:\n 550 nobody",
                "550 - nobody (in reply to RCPT TO command)",
            ),
            (
                "host mx[192.0.2.1]: 451 later, its neighbour said: 550 nobody",
                "451 - later, its neighbour said: 550 nobody",
            ),
            ("<<< 552 5.2.2 full", "552 5.2.2 full"),
            ("the peer returned '550 5.1.1 nobody'", "550 5.1.1 nobody'"),
            ("they answered [450-4.2.1 later]", "450 4.2.1 later]"),
            (
                "connect to mx.example.com[192.0.2.1]:587: refused",
                "- - connect to mx.example.com[192.0.2.1]:587: refused",
            ),
        ] {
            assert_eq!(read(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn lines_of_one_reply_become_one() {
        for (raw, expected) in [
            (
                "451-4.3.2 first\r\n451 4.3.2 second\r\n",
                "451 4.3.2 first second",
            ),
            (
                r"451-4.3.2 first\r\n451 4.3.2 second",
                "451 4.3.2 first second",
            ),
            (
                r"451-4.3.2 first\n451 4.3.2 second",
                "451 4.3.2 first second",
            ),
            (
                "451-first\n451-second\n\n451 third",
                "451 - first second third",
            ),
            ("451-first\n451 4.3.2 second", "451 4.3.2 first second"),
            ("451-4.3.2 first\n451 second", "451 4.3.2 first second"),
            (
                "451-4.3.2 first\n451 4.7.1 second",
                "451 4.3.2 first 451 4.7.1 second",
            ),
            (
                "550-5.1.1 first 550-5.1.1 second 550 5.1.1 third",
                "550 5.1.1 first second third",
            ),
            ("smtp; 550-first\n  550 second", "550 - first second"),
            ("550 see\n the folded line", "550 - see the folded line"),
        ] {
            assert_eq!(read(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn versions_dates_and_addresses_are_not_taken_for_codes_or_statuses() {
        for (raw, code, status) in [
            ("550 192.0.2.5.1 is listed", Some(550), None),
            ("550 client 5.1.1.2 is listed", Some(550), None),
            ("550 5.1.1.2 is listed", Some(550), None),
            ("450 v4.3.2.1 of 1.4.3.2", Some(450), None),
            (
                "450 Exim 4.94.2 and version 4.2.1 and mta/4.2.1 and mta-4.2.1",
                Some(450),
                None,
            ),
            (
                "450 since 04.05.2024 and 4.5.2024 and 4.5.24",
                Some(450),
                None,
            ),
            (
                "450 <4.2.1@example.com> and jo@4.2.1 and 4.2.1.example",
                Some(450),
                None,
            ),
            (
                "550 http://example.com/5.1.1 and a_5.1.1_b",
                Some(550),
                None,
            ),
            ("550 2.0.0 is not what it seems", Some(550), None),
            ("550 2.0.0 but 5.1.1", Some(550), Some("5.1.1")),
            ("Postfix 2.7.1 is tired", None, None),
            ("450 later 554 5.5.1 no valid recipients", Some(450), None),
            ("550 nobody 503 5.5.1 no recipients", Some(550), None),
            ("nobody 503-5.5.1 no recipients", None, None),
            ("5500 messages", None, None),
            ("500MB is all you get", None, None),
            ("203.0.113.9 is listed", None, None),
            ("512@example.com is gone", None, None),
            ("199 no", None, None),
            ("600 no", None, None),
            ("+55 no", None, None),
            ("４５０ no", None, None),
        ] {
            let reply = Reply::parse(raw);
            assert_eq!(
                (reply.code, reply.status),
                (code, status.map(|s| s.parse().unwrap())),
                "{raw:?}"
            );
        }
    }

    #[test]
    fn the_status_gives_the_class_of_failure_and_the_code_whether_it_failed() {
        use StatusClass::{Permanent, Success, Transient};
        for (raw, class) in [
            ("250 ok", Some(Success)),
            ("354 go on", None),
            ("451 later", Some(Transient)),
            ("550 never", Some(Permanent)),
            ("550 4.2.1 later", Some(Transient)),
            ("452 5.3.1 full", Some(Permanent)),
            ("550 2.0.0 no", Some(Permanent)),
            ("250 4.7.1 taken all the same", Some(Success)),
            ("full", None),
        ] {
            assert_eq!(Reply::parse(raw).class(), class, "{raw:?}");
            assert_eq!(
                Reply::parse(raw).is_success(),
                class == Some(Success),
                "{raw:?}"
            );
        }
    }

    #[test]
    fn text_is_one_clean_line_of_bounded_length() {
        assert_eq!(
            read("450\t4.2.1 \u{1b}[31mred\0 \u{3000} x\u{85}y "),
            "450 4.2.1 [31mred x y"
        );
        let long = Reply::parse(&format!("450 {}", "é".repeat(MAX_RAW)));
        assert_eq!(long.text, "é".repeat(MAX_TEXT / 2));
        assert_eq!(
            Reply::parse(&format!("450 a{}", "é".repeat(MAX_RAW)))
                .text
                .len(),
            MAX_TEXT - 1
        );
    }

    #[test]
    fn a_printed_reply_is_read_back_unchanged() {
        for raw in [
            "452 4.3.1 full",
            "451 later",
            "4.3.1 full",
            "full",
            "550",
            "550 <jo@example.com>: 5.1.1 nobody",
        ] {
            let reply = Reply::parse(raw);
            assert_eq!(Reply::parse(&reply.to_string()), reply, "{raw:?}");
        }
    }
}
