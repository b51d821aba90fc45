//! Converts content to the format that mail must have for transmission.

use domain::job::is_empty_content;
use memchr::memchr2_iter;

use super::error::ContentError;

/// The maximum length of a line without its CRLF, in octets (RFC 5321, section 4.5.3.1.6; RFC 5322,
/// section 2.1.1).
const LINE_MAX: usize = 998;

/// Measurements of the lines of a text.
#[derive(Default)]
struct Lines {
    /// How many lines end with a bare CR or a bare LF.
    bare: usize,
    /// The longest line without its end.
    longest: usize,
}

/// Returns the content with CRLF line ends. It is not copied if all its line ends are CRLF already.
/// A line longer than servers must accept is an error. So it is found before a connection is
/// opened.
pub(super) fn format(raw: Vec<u8>) -> Result<Vec<u8>, ContentError> {
    if is_empty_content(&raw) {
        return Err(ContentError::Missing("the content is empty"));
    }
    let mut lines = Lines::default();
    let mut next = 0;
    for (line, after) in ended_lines(&raw) {
        lines.longest = lines.longest.max(line.len());
        lines.bare += usize::from(after - line.end == 1);
        next = after;
    }
    if lines.longest.max(raw.len() - next) > LINE_MAX {
        return Err(ContentError::Missing(
            "the content has a line longer than 998 octets (RFC 5322, section 2.1.1)",
        ));
    }
    Ok(if lines.bare == 0 {
        raw
    } else {
        with_crlf(&raw, lines.bare)
    })
}

/// Returns the content with every line end as CRLF. Mail must not contain a bare CR or LF, because
/// a receiver could split the lines differently from us.
fn with_crlf(raw: &[u8], bare: usize) -> Vec<u8> {
    let mut wire = Vec::with_capacity(raw.len() + bare);
    let mut next = 0;
    for (line, after) in ended_lines(raw) {
        wire.extend_from_slice(&raw[line]);
        wire.extend_from_slice(b"\r\n");
        next = after;
    }
    wire.extend_from_slice(&raw[next..]);
    wire
}

/// Returns, for each line that has a line end, the range of the line without that end, and the
/// start of the next line.
fn ended_lines(raw: &[u8]) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> {
    let mut next = 0;
    memchr2_iter(b'\r', b'\n', raw).filter_map(move |at| {
        // This is the LF of a CRLF.
        if at < next {
            return None;
        }
        let is_crlf = raw[at..].starts_with(b"\r\n");
        let line = next..at;
        next = at + if is_crlf { 2 } else { 1 };
        Some((line, next))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_ends_with_crlf() {
        for (raw, wire) in [
            ("a\nb", "a\r\nb"),
            ("a\r\nb\r\n", "a\r\nb\r\n"),
            ("a\rb", "a\r\nb"),
            ("\n\r\n\ra", "\r\n\r\n\r\na"),
            ("\r\r\n\na", "\r\n\r\n\r\na"),
        ] {
            assert_eq!(format(raw.into()).unwrap(), wire.as_bytes(), "{raw:?}");
        }
    }

    #[test]
    fn empty_content_is_not_mail() {
        for raw in ["", "\r\n", " \t\r\n\n"] {
            assert!(
                matches!(format(raw.into()), Err(ContentError::Missing(_))),
                "{raw:?}"
            );
        }
    }

    #[test]
    fn content_with_a_line_longer_than_mail_allows_is_an_error() {
        for (length, good) in [(998, true), (999, false)] {
            for end in ["", "\n", "\r\n"] {
                let raw = format!("Subject: x\r\n{}{end}", "y".repeat(length));
                assert_eq!(format(raw.into()).is_ok(), good, "{length} {end:?}");
            }
        }
    }
}
