//! An SMTP reply as bounces, logs and conversations contain it: code, enhanced status and text (RFC
//! 5321, section 4.2; RFC 2034). Reading one never fails, because bad mail is data. What to do
//! about a reply is the job of the crate `policy`.

use std::fmt;

use crate::status::{EnhancedStatus, StatusClass};
use fold::fold;

mod fold;
mod several;
pub mod stage;

#[cfg(test)]
mod tests;

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
    /// (`host mx said: 450 …`). If its lines have different codes, the last line counts. If it is
    /// several replies, the last permanent one counts. Takes time linear in its input, and reads
    /// only its first 16 KiB.
    pub fn parse(raw: &str) -> Self {
        let folded = fold(cut(raw, MAX_RAW));
        let whole = without_diagnostic_type(&folded).trim_start_matches(SEPARATORS);
        let quoted = || Head::after_lead_in(whole).or_else(|| Head::within(whole));
        let (head, is_quoted) = match Head::at_start(whole) {
            Some(head) => (head, false),
            None => quoted().map_or((Head::of_words(whole), false), |head| (head, true)),
        };
        let head = head.of_last_line().of_last_permanent();
        let status = head.status.or_else(|| status_within(head.rest, head.code));
        let mut reply = Self {
            code: head.code,
            status,
            text: human_text(head.rest, head.code, status),
        };
        if is_quoted {
            stage::note(&mut reply, &whole[..whole.len() - head.rest.len()]);
        }
        if head.rest.len() > MAX_TEXT {
            stage::note_at_end(&mut reply, head.rest);
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
    /// Whether a hyphen directly after the code announces more lines.
    continues: bool,
}

impl<'a> Head<'a> {
    /// Returns the head of a text with neither code nor status.
    fn of_words(text: &'a str) -> Self {
        Self {
            code: None,
            status: None,
            rest: text,
            continues: false,
        }
    }

    /// Returns the head at the start of `text`.
    fn at_start(text: &'a str) -> Option<Self> {
        let text = without_openers(text);
        let Some((code, rest)) = code_at(text) else {
            let (status, rest) = status_at(text).filter(|(status, _)| is_in_use(*status))?;
            return Some(Self {
                status: Some(status),
                ..Self::of_words(without_separators(rest))
            });
        };
        let continues = rest.starts_with('-');
        let rest = without_separators(rest);
        match status_at(without_openers(rest.trim_start_matches(SEPARATORS))) {
            Some((status, rest)) if (status.class() == StatusClass::Success) == (code < 400) => {
                Some(Self {
                    code: Some(code),
                    status: Some(status),
                    rest: without_separators(rest),
                    continues,
                })
            }
            _ => Some(Self {
                code: Some(code),
                status: None,
                rest,
                continues,
            }),
        }
    }

    /// Returns the head of the last line of this reply if that line is a failure with another code.
    /// All lines should have the same code (RFC 5321, section 4.2.1). If they have not, the last
    /// line counts, as in a conversation: a greeting may begin with `220-` and end with `521`.
    fn of_last_line(self) -> Self {
        let Some(first) = self.code.filter(|_| self.continues) else {
            return self;
        };
        let has_lines = self.rest.contains('\n');
        let separator = if has_lines { '\n' } else { ' ' };
        for (at, _) in self.rest.match_indices(separator) {
            let line = &self.rest[at + 1..];
            // A line that was joined to the one before it is told from a number in the text by its
            // status, or because the reply did not mean a failure until then.
            let is_line = |code: u16, rest: &str| {
                rest.is_empty()
                    || rest.starts_with([' ', '-', '\n'])
                        && (has_lines
                            || code == first
                            || first < 400
                            || status_at(&rest[1..])
                                .is_some_and(|(status, _)| Some(status.class()) == class_of(code)))
            };
            match code_at(line) {
                Some((code, rest)) if is_line(code, rest) => {
                    if rest.starts_with('-') {
                        continue;
                    }
                    return match Self::at_start(line) {
                        Some(last) if code != first && code >= 400 => last,
                        _ => self,
                    };
                }
                _ => {}
            }
        }
        self
    }

    /// Returns the first failure that another mail system quotes: `host mx.example.com[192.0.2.1]
    /// said: 450 busy`.
    fn after_lead_in(text: &'a str) -> Option<Self> {
        let is_failure = |head: &Self| head.code.is_some_and(|code| code >= 400);
        let mut heads = text
            .match_indices([':', '<'])
            .map(|(at, mark)| text.split_at(at + mark.len()))
            .filter_map(|(before, after)| Some((before, after.strip_prefix([' ', '\n'])?)))
            .filter(|(before, _)| LEAD_INS.iter().any(|lead_in| before.ends_with(lead_in)))
            .filter_map(|(_, after)| Self::at_start(after))
            .peekable();
        // Only the first one, so that many of them do not cost more each.
        let first = heads.peek().map(|head| head.of_last_line());
        first.filter(is_failure).or_else(|| heads.find(is_failure))
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
