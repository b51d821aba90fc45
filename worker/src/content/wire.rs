//! What mail must look like on the wire.

use domain::job::is_empty_content;
use memchr::memchr2_iter;

use super::error::ContentError;

/// Octets of a line without its CRLF (RFC 5321, section 4.5.3.1.6; RFC 5322, section 2.1.1).
const LINE_MAX: usize = 998;

/// What the line ends of a text are like.
#[derive(Default)]
struct Lines {
    /// How many ends are a bare CR or a bare LF.
    bare: usize,
    /// The longest line without its end.
    longest: usize,
}

/// The content with CRLF line ends; where it has no others it is not copied. A line that no server
/// has to take is refused before anybody is connected to.
pub(super) fn fit(raw: Vec<u8>) -> Result<Vec<u8>, ContentError> {
    if is_empty_content(&raw) {
        return Err(ContentError::Missing("the content is empty"));
    }
    let mut lines = Lines::default();
    let mut next = 0;
    for (line, after) in ends(&raw) {
        lines.longest = lines.longest.max(line.len());
        lines.bare += usize::from(after - line.end == 1);
        next = after;
    }
    if lines.longest.max(raw.len() - next) > LINE_MAX {
        return Err(ContentError::Missing(
            "the content has a line of more than 998 octets (RFC 5322, section 2.1.1)",
        ));
    }
    Ok(if lines.bare == 0 {
        raw
    } else {
        with_crlf(&raw, lines.bare)
    })
}

/// Makes every line end CRLF: bare CR and bare LF have no place in mail, and let a receiver see
/// other lines than we do.
fn with_crlf(raw: &[u8], bare: usize) -> Vec<u8> {
    let mut wire = Vec::with_capacity(raw.len() + bare);
    let mut next = 0;
    for (line, after) in ends(raw) {
        wire.extend_from_slice(&raw[line]);
        wire.extend_from_slice(b"\r\n");
        next = after;
    }
    wire.extend_from_slice(&raw[next..]);
    wire
}

/// Each line that ends, without its end, and where the next one begins.
fn ends(raw: &[u8]) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> {
    let mut next = 0;
    memchr2_iter(b'\r', b'\n', raw).filter_map(move |at| {
        // The LF of a CRLF.
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
            assert_eq!(fit(raw.into()).unwrap(), wire.as_bytes(), "{raw:?}");
        }
    }

    #[test]
    fn content_of_nothing_is_no_mail() {
        for raw in ["", "\r\n", " \t\r\n\n"] {
            assert!(
                matches!(fit(raw.into()), Err(ContentError::Missing(_))),
                "{raw:?}"
            );
        }
    }

    #[test]
    fn no_line_is_longer_than_mail_allows() {
        for (length, good) in [(998, true), (999, false)] {
            for end in ["", "\n", "\r\n"] {
                let raw = format!("Subject: x\r\n{}{end}", "y".repeat(length));
                assert_eq!(fit(raw.into()).is_ok(), good, "{length} {end:?}");
            }
        }
    }
}
