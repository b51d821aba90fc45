//! The whole mail that a report returns, octet by octet. The other files read only its header.

use mail_parser::{ContentType, Message, MimeHeaders};

use crate::mime::{MAX_DEPTH, read_head, segments, split_head};

/// The transfer encodings that leave a mail as it is.
const IDENTITY: [&str; 4] = ["", "7bit", "8bit", "binary"];

/// The header field that a mail system adds on delivery. It must not be in mail that is sent (RFC
/// 5321, section 4.4).
const RETURN_PATH: &[u8] = b"return-path:";

/// Returns the mail that a report (`multipart/report`, RFC 6522) returns, without `Return-Path`
/// fields at its beginning. Returns `None` if the report returns no mail, only its header, or one
/// that was cut off. Takes time linear in its input.
pub fn returned_mail(report: &[u8]) -> Option<&[u8]> {
    let (head, _) = split_head(report);
    let head = read_head(head)?;
    if kind(&head) != ("multipart".to_owned(), "report".to_owned()) {
        return None;
    }
    let mail = without_return_path(find(report, 0)?);
    is_whole(mail).then_some(mail)
}

fn find(part: &[u8], depth: usize) -> Option<&[u8]> {
    if depth > MAX_DEPTH {
        return None;
    }
    let (head, body) = split_head(part);
    let head = read_head(head)?;
    let (main, sub) = kind(&head);
    if main == "multipart" {
        return segments(body, &boundary(&head)).find_map(|segment| {
            let is_ended = segment.as_ptr_range().end < body.as_ptr_range().end;
            find(segment, depth + 1).filter(|_| is_ended)
        });
    }
    let encoding = head.content_transfer_encoding().unwrap_or_default().trim();
    let is_mail = main == "message" && ["rfc822", "global"].contains(&sub.as_str());
    let is_plain = IDENTITY
        .iter()
        .any(|name| encoding.eq_ignore_ascii_case(name));
    // The line end before a boundary belongs to the boundary (RFC 2046, section 5.1.1).
    let mail = body.strip_suffix(b"\n").unwrap_or(body);
    let mail = mail.strip_suffix(b"\r").unwrap_or(mail);
    (is_mail && is_plain).then_some(mail)
}

/// Whether a mail has a body, and all of its own parts.
fn is_whole(mail: &[u8]) -> bool {
    let (head, body) = split_head(mail);
    let Some(head) = read_head(head) else {
        return false;
    };
    if body.iter().all(u8::is_ascii_whitespace) {
        return false;
    }
    if kind(&head).0 != "multipart" {
        return true;
    }
    let end = format!("--{}--", boundary(&head));
    body.split(|byte| *byte == b'\n')
        .any(|line| line.trim_ascii_end() == end.as_bytes())
}

/// Returns type and subtype of a part, in lower case.
fn kind(head: &Message<'_>) -> (String, String) {
    let content_type = head.content_type();
    let main = content_type.map_or("text", ContentType::ctype);
    let sub = content_type
        .and_then(ContentType::subtype)
        .unwrap_or("plain");
    (main.to_ascii_lowercase(), sub.to_ascii_lowercase())
}

fn boundary(head: &Message<'_>) -> String {
    let content_type = head.content_type();
    let boundary = content_type.and_then(|kind| kind.attribute("boundary"));
    boundary.unwrap_or_default().to_owned()
}

/// Returns a mail without the lines of `Return-Path` fields at its beginning.
fn without_return_path(mail: &[u8]) -> &[u8] {
    let mut rest = mail;
    while rest
        .get(..RETURN_PATH.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(RETURN_PATH))
    {
        loop {
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                return &[];
            };
            rest = &rest[end + 1..];
            let is_folded = rest.first().is_some_and(|byte| b" \t".contains(byte));
            if !is_folded {
                break;
            }
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(part: &str) -> String {
        format!(
            "From: mailer-daemon@example.com\r\n\
             Content-Type: multipart/report; boundary=b\r\n\r\n\
             --b\r\n\r\nIt failed.\r\n{part}\r\n--b--\r\n"
        )
    }

    fn returned(report: &str) -> Option<&str> {
        returned_mail(report.as_bytes()).map(|mail| std::str::from_utf8(mail).unwrap())
    }

    #[test]
    fn the_whole_mail_is_returned_as_it_is() {
        let mail = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nGr\u{fc}\u{df}e\r\n.\r\n";
        for encoding in ["", "Content-Transfer-Encoding: 8bit\r\n"] {
            for added in ["", "Return-Path: <x@\r\n bounce.example.org>\r\n"] {
                let part =
                    format!("--b\r\nContent-Type: message/rfc822\r\n{encoding}\r\n{added}{mail}");
                assert_eq!(returned(&report(&part)), Some(mail), "{encoding}{added}");
            }
        }
        let parts = "Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nhi\r\n--c--\r\n";
        let part = format!("--b\r\nContent-Type: message/rfc822\r\n\r\n{parts}");
        assert_eq!(returned(&report(&part)), Some(parts));
    }

    #[test]
    fn mail_that_is_not_whole_is_not_returned() {
        let mail = "--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: hi\r\n\r\nhello\r\n";
        assert!(returned(&report(mail)).is_some());
        for part in [
            "--b\r\nContent-Type: text/rfc822-headers\r\n\r\nSubject: hi\r\n\r\nhello",
            "--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: hi\r\n\r\n",
            "--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: hi",
            "--b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n\
             U3ViamVjdDogaGkNCg0KaGk=",
            "--b\r\nContent-Type: message/rfc822\r\n\r\nContent-Type: multipart/mixed; \
             boundary=c\r\n\r\n--c\r\n\r\nhalf of i",
        ] {
            assert_eq!(returned(&report(part)), None, "{part}");
        }
        let whole = report(mail);
        let cut = &whole[..whole.len() - "\r\n--b--\r\n".len()];
        assert_eq!(returned(cut), None, "the report itself was cut off");
        let forwarded = whole.replace("multipart/report", "multipart/mixed");
        assert_eq!(returned(&forwarded), None, "it is no report");
    }
}
