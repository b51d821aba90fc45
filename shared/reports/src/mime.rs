//! Finds the parts of a message that are about delivery. Headers and encodings are read with
//! `mail-parser`. Its tree of parts is not used, because a sender can make it as deep and broad as
//! they like, and because the content of returned mail is not part of the report.

use std::mem;
use std::sync::LazyLock;

use domain::clock::Timestamp;
use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::decoders::html::html_to_text;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::{ContentType, Message, MessageParser, MimeHeaders};

use crate::bounded::{begins_with, cut, lossy};
use crate::instant::instant;
use crate::quote::{date, unquoted};

/// The largest depth of parts within parts. Reports have two levels; after lists and filters they
/// have a few more.
pub(crate) const MAX_DEPTH: usize = 6;

/// The largest number of parts that are read.
const MAX_PARTS: usize = 64;

/// The largest header section that is read, in bytes.
const MAX_HEAD: usize = 128 * 1024;

/// The largest text of one part that is kept, in bytes.
const MAX_TEXT: usize = 256 * 1024;

/// The beginning of the subject of a forwarded mail, in English, German and French.
const FORWARDED: [&str; 4] = ["fwd:", "fw:", "wg:", "tr:"];

/// Reads only the header fields that are used here.
static PARSER: LazyLock<MessageParser> = LazyLock::new(|| {
    MessageParser::new()
        .with_mime_headers()
        .header_text("Subject")
        .header_date("Date")
        .default_header_raw()
});

/// A message, reduced to what a report can consist of.
#[derive(Debug)]
pub(crate) struct Mail<'m> {
    head: Option<Message<'m>>,
    /// When the mail was written that a person forwarded.
    forwarded_date: Option<Timestamp>,
    /// Its parts, in order.
    pub(crate) parts: Vec<Part>,
}

/// One part, decoded.
#[derive(Debug, PartialEq)]
pub(crate) enum Part {
    /// `message/delivery-status`, `message/global-delivery-status`.
    DeliveryStatus(String),
    /// `message/feedback-report`.
    Feedback(String),
    /// Text for people.
    Text(String),
    /// The returned mail, or its header section.
    Original(String),
}

impl<'m> Mail<'m> {
    /// Reads a message: its header, and its parts up to the returned mail.
    pub(crate) fn read(bytes: &'m [u8]) -> Self {
        let bytes = without_envelope(bytes);
        let mut parts = Vec::new();
        read_part(bytes, 0, &mut parts);
        let mut mail = Self {
            head: read_head(split_head(bytes).0),
            forwarded_date: None,
            parts,
        };
        if mail.is_forwarded() {
            for part in &mut mail.parts {
                if let Part::Text(text) = part {
                    *text = unquoted(mem::take(text));
                }
            }
            let written = mail.texts().find_map(date);
            mail.forwarded_date = written;
        }
        mail
    }

    /// Whether a person forwarded a mail that they had received. An answer to a report may also
    /// quote it, but is not a forwarded report.
    pub(crate) fn is_forwarded(&self) -> bool {
        let subject = self.subject().trim_start();
        let is_answer = ["In-Reply-To", "Auto-Submitted"]
            .iter()
            .any(|name| self.header(name).is_some());
        !is_answer && FORWARDED.iter().any(|mark| begins_with(subject, mark))
    }

    /// Returns a header field as it was written, unfolded. If there are several, returns the first.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .head
            .as_ref()?
            .headers_raw()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))?;
        Some(value.trim())
    }

    /// Returns the decoded subject.
    pub(crate) fn subject(&self) -> &str {
        self.head
            .as_ref()
            .and_then(Message::subject)
            .unwrap_or_default()
    }

    /// Returns when the message was written, by its own date. If a person forwarded a mail, returns
    /// the date of that mail.
    pub(crate) fn date(&self) -> Option<Timestamp> {
        let own = || instant(self.head.as_ref()?.date()?);
        self.forwarded_date.or_else(own)
    }

    /// Returns the values of at most `most` header fields of one name, unfolded.
    pub(crate) fn headers(&self, name: &'static str, most: usize) -> impl Iterator<Item = &str> {
        let fields = self.head.iter().flat_map(Message::headers_raw);
        fields
            .filter(move |(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .take(most)
    }

    /// Returns the texts for people, part by part.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Returns the returned mail, if it is a part of its own.
    pub(crate) fn original(&self) -> Option<&str> {
        self.parts.iter().find_map(|part| match part {
            Part::Original(text) => Some(text.as_str()),
            _ => None,
        })
    }
}

fn read_part(bytes: &[u8], depth: usize, parts: &mut Vec<Part>) {
    if depth > MAX_DEPTH || parts.len() >= MAX_PARTS {
        return;
    }
    let (head, body) = split_head(bytes);
    let head = read_head(head);
    let content_type = head.as_ref().and_then(Message::content_type);
    let main = content_type
        .map_or("text", ContentType::ctype)
        .to_ascii_lowercase();
    let sub = content_type
        .and_then(ContentType::subtype)
        .unwrap_or("plain")
        .to_ascii_lowercase();
    if main == "multipart" {
        let boundary = content_type
            .and_then(|kind| kind.attribute("boundary"))
            .unwrap_or_default();
        let mut found = false;
        for segment in segments(body, boundary) {
            found = true;
            read_part(segment, depth + 1, parts);
        }
        if found {
            return;
        }
    }
    let text = || decoded(body, head.as_ref());
    parts.push(match (main.as_str(), sub.as_str()) {
        ("message", "delivery-status" | "global-delivery-status") => Part::DeliveryStatus(text()),
        ("message", "feedback-report") => Part::Feedback(text()),
        ("message", "rfc822" | "global" | "global-headers" | "partial") => Part::Original(text()),
        ("text", "rfc822-headers" | "rfc822-header") => Part::Original(text()),
        ("text", "html") => Part::Text(html_to_text(&text())),
        // A part without a type whose header is the header of the returned mail itself.
        ("text", _) if depth > 0 && is_header_of_mail(head.as_ref()) => {
            Part::Original(lossy(bytes).into_owned())
        }
        // A multipart without its boundary is read as plain text.
        ("text" | "multipart", _) => Part::Text(text()),
        _ => return,
    });
}

/// Whether a header belongs to a whole mail, not to a part.
fn is_header_of_mail(head: Option<&Message<'_>>) -> bool {
    head.is_some_and(|head| {
        head.headers_raw()
            .any(|(name, _)| name.eq_ignore_ascii_case("received"))
    })
}

/// Returns a message without the lines before its header: blank lines, and the envelope line of a
/// mailbox file.
fn without_envelope(bytes: &[u8]) -> &[u8] {
    let blank = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_whitespace())
        .count();
    let bytes = &bytes[blank..];
    if !bytes.starts_with(b"From ") && !bytes.starts_with(b">From ") {
        return bytes;
    }
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |end| end + 1);
    &bytes[end..]
}

/// Returns the header section with its last line end, and the text after the empty line.
pub(crate) fn split_head(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut at = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if line.iter().all(u8::is_ascii_whitespace) {
            return (&bytes[..at], &bytes[at + line.len()..]);
        }
        at += line.len();
    }
    (bytes, &[])
}

pub(crate) fn read_head(head: &[u8]) -> Option<Message<'_>> {
    PARSER.parse_headers(&head[..head.len().min(MAX_HEAD)])
}

/// Returns the segments between the boundary lines (RFC 2046, section 5.1.1). Returns none if there
/// is no such line.
pub(crate) fn segments<'b>(body: &'b [u8], boundary: &str) -> impl Iterator<Item = &'b [u8]> {
    let delimiter = (!boundary.is_empty()).then(|| format!("--{boundary}").into_bytes());
    let mut lines = body.split_inclusive(|byte| *byte == b'\n');
    let mut at = 0;
    let mut start = None;
    let mut over = delimiter.is_none();
    std::iter::from_fn(move || {
        let delimiter = delimiter.as_deref().unwrap_or_default();
        while !over {
            let Some(line) = lines.next() else {
                over = true;
                return start.take().map(|start| &body[start..]);
            };
            let line_at = at;
            at += line.len();
            let Some(rest) = line.trim_ascii_end().strip_prefix(delimiter) else {
                continue;
            };
            if !rest.is_empty() && rest != b"--" {
                continue;
            }
            over = rest == b"--";
            let segment = start.map(|start| &body[start..line_at]);
            start = (!over).then_some(at);
            if segment.is_some() {
                return segment;
            }
        }
        None
    })
}

/// Returns the text of a part: with its transfer encoding undone and its charset converted if it is
/// known, and at most [`MAX_TEXT`] bytes of it.
fn decoded(body: &[u8], head: Option<&Message<'_>>) -> String {
    let body = &body[..body.len().min(2 * MAX_TEXT)];
    let encoding = head
        .and_then(Message::content_transfer_encoding)
        .unwrap_or_default()
        .trim();
    let decoded = if encoding.eq_ignore_ascii_case("base64") {
        base64_decode(body)
    } else if encoding.eq_ignore_ascii_case("quoted-printable") {
        quoted_printable_decode(body)
    } else {
        None
    };
    let bytes = decoded.as_deref().unwrap_or(body);
    let charset = head
        .and_then(Message::content_type)
        .and_then(|kind| kind.attribute("charset"))
        .unwrap_or_default();
    let utf8 = std::str::from_utf8(bytes).is_ok();
    let decoder = (!utf8 && !charset.is_empty())
        .then(|| charset_decoder(charset.as_bytes()))
        .flatten();
    let text = decoder.map_or_else(|| lossy(bytes).into_owned(), |decode| decode(bytes));
    cut(&text, MAX_TEXT)
        .replace("\r\n", "\n")
        .replace('\r', "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(message: &str) -> Vec<Part> {
        Mail::read(message.as_bytes()).parts
    }

    #[test]
    fn parts_are_found_up_to_the_returned_mail() {
        let message = "Content-Type: multipart/report; boundary=b\r\n\r\nPreamble\r\n--b\r\n\r\n\
                       Words\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n\
                       Status: 5.0.0\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n\
                       Content-Type: message/delivery-status\r\n\r\nin it\r\n--b--\r\nafter";
        assert_eq!(
            parts(message),
            [
                Part::Text("Words\n".into()),
                Part::DeliveryStatus("Status: 5.0.0\n".into()),
                Part::Original("Content-Type: message/delivery-status\n\nin it\n".into()),
            ]
        );
    }

    #[test]
    fn a_mail_header_right_after_a_boundary_begins_the_returned_mail() {
        let message = "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nUser unknown\n--b\n\
                       Received: from a by b\nSubject: x\n\nHello\n--b--\n";
        let original = Part::Original("Received: from a by b\nSubject: x\n\nHello\n".into());
        assert_eq!(
            parts(message),
            [Part::Text("User unknown\n".into()), original]
        );
    }

    #[test]
    fn encodings_and_charsets_are_decoded() {
        for (head, body, text) in [
            ("Content-Transfer-Encoding: base64", "R3LDvMOfZQ==", "Grüße"),
            (
                "Content-Transfer-Encoding: quoted-printable",
                "Gr=C3=BC=C3=9Fe",
                "Grüße",
            ),
            (
                "Content-Type: text/html",
                "<p>Full &amp; gone</p>",
                "Full & gone\n",
            ),
            (
                "Content-Transfer-Encoding: base64",
                "not base64 at all!",
                "not base64 at all!",
            ),
        ] {
            let Some(Part::Text(found)) = parts(&format!("{head}\n\n{body}")).pop() else {
                panic!("{head}")
            };
            assert_eq!(found.trim_end(), text.trim_end(), "{head}");
        }
    }

    #[test]
    fn a_broken_structure_is_read_as_plain_text() {
        for message in [
            "Content-Type: multipart/report; boundary=b\n\nno boundary here",
            "Content-Type: multipart/report\n\nno boundary here",
            "Content-Type: \n\nno boundary here",
            "\n\nFrom jo Mon\nSubject: x\n\nno boundary here",
        ] {
            assert_eq!(
                parts(message),
                [Part::Text("no boundary here".into())],
                "{message}"
            );
        }
        assert_eq!(Mail::read(b"").parts.len(), 1);
    }

    #[test]
    fn depth_and_number_of_parts_are_bounded() {
        let deep: String = (0..10_000)
            .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n"))
            .collect();
        assert!(parts(&deep).len() <= 1);
        let broad = format!(
            "Content-Type: multipart/mixed; boundary=b\n\n{}",
            "--b\n\nx\n".repeat(10_000)
        );
        assert_eq!(parts(&broad).len(), MAX_PARTS);
    }
}
