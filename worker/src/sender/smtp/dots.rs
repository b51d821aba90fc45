//! The content as DATA takes it.

/// Lines that start with a dot get another, and a dot alone ends the content (RFC 5321, section 4.5.2). All line ends are
/// CRLF already.
pub(crate) fn dot_stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + content.len() / 64 + 8);
    let mut rest = content;
    if rest.first() == Some(&b'.') {
        wire.push(b'.');
    }
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\n.") {
        wire.extend_from_slice(&rest[..=at]);
        wire.push(b'.');
        rest = &rest[at + 1..];
    }
    wire.extend_from_slice(rest);
    if !wire.is_empty() && !wire.ends_with(b"\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_alone_ends_the_content_and_no_other_line_does() {
        for (content, wire) in [
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            ("", ".\r\n"),
            (".\r\nMAIL FROM:<x>\r\n", "..\r\nMAIL FROM:<x>\r\n.\r\n"),
            ("a\r\n.\r\n..b\r\n", "a\r\n..\r\n...b\r\n.\r\n"),
            (".\r\n.\r\n.", "..\r\n..\r\n..\r\n.\r\n"),
        ] {
            assert_eq!(dot_stuffed(content.as_bytes()), wire.as_bytes(), "{content:?}");
        }
    }
}
