//! MAIL and RCPT for one message, with the extensions that it needs and the peer offers. A message
//! that the peer cannot accept is refused here, before anything is sent.

use domain::address::Address;
use domain::reply::Reply;
use memchr::memmem;

use super::offers::Offers;
use crate::attempt::Attempt;
use crate::settings::session::Notify;

/// The maximum length of an ENVID (RFC 3461, section 4.4).
const ENVID_MAX: usize = 100;

/// The commands that name the sender and the recipient, including their line ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) mail: String,
    pub(crate) rcpt: String,
}

impl Envelope {
    /// Returns the commands for this peer. If the peer cannot accept the message, `Err` contains
    /// the reply with which it would refuse it.
    pub(crate) fn new(
        offers: &Offers,
        notify: Notify,
        attempt: &Attempt,
        content: &[u8],
    ) -> Result<Self, Reply> {
        let (from, recipient) = (attempt.envelope_from.as_ref(), &attempt.recipient);
        let mut mail = format!("MAIL FROM:<{}>", from.map_or("", |from| from.as_str()));
        let mut rcpt = format!("RCPT TO:<{}>", recipient.as_str());
        if offers.size_max != 0 && content.len() > offers.size_max {
            let (size, max) = (content.len(), offers.size_max);
            // RFC 1870, section 6.2: a message above the announced limit counts as refused by the
            // peer.
            return Err(refusal(&format!(
                "552 5.3.4 the message has {size} bytes and the peer accepts at most {max}"
            )));
        }
        if offers.size() {
            mail.push_str(&format!(" SIZE={}", content.len()));
        }
        if !content.is_ascii() {
            if !offers.eight_bit() {
                // RFC 6152, section 3, forbids to send it under any circumstances.
                return Err(refusal(
                    "554 5.6.3 the message is not ASCII and the peer does not offer 8BITMIME",
                ));
            }
            mail.push_str(" BODY=8BITMIME");
        }
        if !recipient.is_ascii() || !from.is_none_or(Address::is_ascii) {
            if !offers.utf8() {
                // RFC 6531, section 3.5.
                return Err(refusal(
                    "553 5.6.7 the peer does not take internationalized addresses",
                ));
            }
            mail.push_str(" SMTPUTF8");
        } else if offers.utf8() && !header(content).is_ascii() {
            mail.push_str(" SMTPUTF8");
        }
        if let Some(notify) = notify.value().filter(|_| offers.dsn()) {
            mail.push_str(" RET=HDRS");
            let envid = xtext(&attempt.message_id);
            if !envid.is_empty() && envid.len() <= ENVID_MAX {
                mail.push_str(&format!(" ENVID={envid}"));
            }
            rcpt.push_str(&format!(" NOTIFY={notify}"));
            if recipient.is_ascii() {
                rcpt.push_str(&format!(" ORCPT=rfc822;{}", xtext(recipient.as_str())));
            }
        }
        mail.push_str("\r\n");
        rcpt.push_str("\r\n");
        Ok(Self { mail, rcpt })
    }
}

fn refusal(reply: &str) -> Reply {
    Reply::parse(reply)
}

/// Returns the message's header section: everything before the first empty line.
fn header(content: &[u8]) -> &[u8] {
    let end = memmem::find(content, b"\r\n\r\n");
    &content[..end.unwrap_or(content.len())]
}

/// Returns text encoded as xtext (RFC 3461, section 4): spaces, non-printable characters, `+` and
/// `=` become `+` and two hexadecimal digits. Returns an empty string if the text is not ASCII.
fn xtext(text: &str) -> String {
    if !text.is_ascii() {
        return String::new();
    }
    let mut coded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'+' | b'=' | 0..=b' ' | 127.. => coded.push_str(&format!("+{byte:02X}")),
            other => coded.push(other.into()),
        }
    }
    coded
}

#[cfg(test)]
mod tests {
    use smtp_proto::{EXT_8BIT_MIME, EXT_DSN, EXT_SIZE, EXT_SMTP_UTF8};

    use super::*;

    const ALL: u32 = EXT_8BIT_MIME | EXT_DSN | EXT_SIZE | EXT_SMTP_UTF8;

    fn attempt(recipient: &str) -> Attempt {
        Attempt {
            envelope_from: Some(Address::parse("bounce@news.example.org").unwrap()),
            ..Attempt::first(
                Address::parse(recipient).unwrap(),
                "<c42.9+1@news.example.org>",
            )
        }
    }

    fn envelope(offers: Offers, recipient: &str, content: &str) -> Result<Envelope, Reply> {
        let notify = Notify {
            failure: true,
            ..Notify::default()
        };
        Envelope::new(&offers, notify, &attempt(recipient), content.as_bytes())
    }

    #[test]
    fn the_commands_use_only_extensions_that_are_offered_and_needed() {
        let plain = envelope(Offers::of(0, 0), "jo@example.com", "a\r\n").unwrap();
        assert_eq!(plain.mail, "MAIL FROM:<bounce@news.example.org>\r\n");
        assert_eq!(plain.rcpt, "RCPT TO:<jo@example.com>\r\n");

        let all = envelope(Offers::of(ALL, 0), "jö+x@example.com", "A: b\r\n\r\nü\r\n").unwrap();
        assert_eq!(
            all.mail,
            "MAIL FROM:<bounce@news.example.org> SIZE=12 BODY=8BITMIME SMTPUTF8 RET=HDRS \
             ENVID=<c42.9+2B1@news.example.org>\r\n"
        );
        assert_eq!(all.rcpt, "RCPT TO:<jö+x@example.com> NOTIFY=FAILURE\r\n");
        let ascii = envelope(Offers::of(ALL, 0), "jo+x@example.com", "A: b\r\n\r\nü\r\n").unwrap();
        assert!(
            !ascii.mail.contains("SMTPUTF8"),
            "a non-ASCII body does not need it: {}",
            ascii.mail
        );
        assert_eq!(
            ascii.rcpt,
            "RCPT TO:<jo+x@example.com> NOTIFY=FAILURE ORCPT=rfc822;jo+2Bx@example.com\r\n"
        );
    }

    #[test]
    fn a_message_the_peer_cannot_accept_is_refused_with_the_reply_it_would_send() {
        for (offers, recipient, content, status) in [
            (
                Offers::of(EXT_SIZE, 3),
                "jo@example.com",
                "abc\r\n",
                "5.3.4",
            ),
            (
                Offers::of(EXT_SMTP_UTF8, 0),
                "jo@example.com",
                "ü\r\n",
                "5.6.3",
            ),
            (
                Offers::of(EXT_8BIT_MIME, 0),
                "jö@example.com",
                "u\r\n",
                "5.6.7",
            ),
        ] {
            let reply = envelope(offers, recipient, content).unwrap_err();
            assert_eq!(reply.status, Some(status.parse().unwrap()), "{reply}");
        }
    }
}
