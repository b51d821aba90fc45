//! Converts content to the form in which it is transmitted after DATA.

use std::iter::once;

use memchr::memmem;

/// Returns the content with a dot added to each line that starts with a dot, and a final line with
/// only a dot (RFC 5321, section 4.5.2). The line ends of `content` must be CRLF already. The
/// result comes in pieces, so that the content is not copied in memory for each connection.
pub(crate) fn dot_stuffed(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let dot_if = |needs_dot: bool| if needs_dot { &b"."[..] } else { b"" };
    let first = dot_if(content.starts_with(b"."));
    let last: &[u8] = if content.is_empty() || content.ends_with(b"\r\n") {
        b".\r\n"
    } else {
        b"\r\n.\r\n"
    };
    let dots = memmem::find_iter(content, b"\n.").map(|at| at + 1);
    let mut from = 0;
    let lines = dots.chain(once(content.len())).flat_map(move |to| {
        let piece = &content[from..to];
        from = to;
        [piece, dot_if(to < content.len())]
    });
    once(first).chain(lines).chain(once(last))
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
            let pieces: Vec<&[u8]> = dot_stuffed(content.as_bytes()).collect();
            assert_eq!(pieces.concat(), wire.as_bytes(), "{content:?}");
        }
    }
}
