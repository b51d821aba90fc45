//! What mail must look like on the wire.

use bytes::Bytes;

use super::ContentError;

/// Octets of a line without its CRLF (RFC 5321, section 4.5.3.1.6; RFC 5322, section 2.1.1).
const LINE_MAX: usize = 998;

/// The content with CRLF line ends. A line that no server has to take is refused before anybody is connected to.
pub(super) fn fit(raw: &[u8]) -> Result<Bytes, ContentError> {
    let wire = with_crlf(raw);
    let is_short = |line: &[u8]| line.strip_suffix(b"\r").unwrap_or(line).len() <= LINE_MAX;
    if wire.split(|byte| *byte == b'\n').all(is_short) {
        Ok(wire.into())
    } else {
        Err(ContentError::Missing("the content has a line of more than 998 octets (RFC 5322, section 2.1.1)"))
    }
}

/// Makes every line end CRLF: bare CR and bare LF have no place in mail, and let a receiver see other lines than we do.
fn with_crlf(raw: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(raw.len() + raw.len() / 32);
    let mut bytes = raw.iter().peekable();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if(|next| **next == b'\n');
                wire.extend_from_slice(b"\r\n");
            }
            b'\n' => wire.extend_from_slice(b"\r\n"),
            other => wire.push(other),
        }
    }
    wire
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
            ("\n\r\n\r", "\r\n\r\n\r\n"),
            ("", ""),
        ] {
            assert_eq!(&fit(raw.as_bytes()).unwrap()[..], wire.as_bytes(), "{raw:?}");
        }
    }

    #[test]
    fn no_line_is_longer_than_mail_allows() {
        for (length, is_fit) in [(998, true), (999, false)] {
            for end in ["", "\n", "\r\nnext"] {
                let raw = format!("Subject: x\r\n\r\n{}{end}", "x".repeat(length));
                assert_eq!(fit(raw.as_bytes()).is_ok(), is_fit, "{length} {end:?}");
            }
        }
    }
}
