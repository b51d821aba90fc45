//! The mail that a delivery report returns, as the content of the retries. The report can be forged
//! by everyone who knows its return path, so this is off by default.

use std::sync::Arc;

use domain::bounce::Warning;
use domain::job::{ContentRef, is_empty_content};
use reports::returned::returned_mail;

/// The mail that a report returns.
#[derive(Clone, Debug)]
pub(super) enum ReturnedMail {
    /// The report returns no whole mail, or returned mail is not used.
    None,
    Whole(Arc<str>),
    /// It returns one that cannot be content. Contains the reason.
    Unusable(String),
}

impl ReturnedMail {
    /// Reads the mail that a report returns, of at most `max` bytes. Takes time linear in its
    /// input.
    pub(super) fn read(report: &[u8], max: usize) -> Self {
        match returned_mail(report) {
            None => Self::None,
            Some(mail) if mail.len() > max => Self::Unusable(format!(
                "the mail that the report returns is larger than job.inline_max, {max} bytes"
            )),
            Some(mail) => match str::from_utf8(mail) {
                Ok(mail) if !is_empty_content(mail.as_bytes()) => Self::Whole(mail.into()),
                Ok(_) => Self::None,
                Err(_) => Self::Unusable(
                    "the mail that the report returns is not UTF-8, as inline content has to be"
                        .to_owned(),
                ),
            },
        }
    }

    /// Returns the content of the message that was returned.
    pub(super) fn content(&self) -> Option<ContentRef> {
        match self {
            Self::Whole(mail) => Some(ContentRef::Inline(mail.as_ref().to_owned())),
            Self::None | Self::Unusable(_) => None,
        }
    }

    /// Returns the warning about mail that cannot be content.
    pub(super) fn warning(&self) -> Option<Warning> {
        match self {
            Self::Unusable(why) => Some(Warning {
                field: "content".to_owned(),
                reason: why.clone(),
            }),
            Self::None | Self::Whole(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(body: &[u8]) -> Vec<u8> {
        let before = b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\n\
                       Content-Type: message/rfc822\r\n\r\nSubject: hi\r\n\r\n";
        [before, body, b"\r\n--b--\r\n"].concat()
    }

    #[test]
    fn returned_mail_is_content_if_it_is_small_and_text() {
        let read = |body: &[u8]| ReturnedMail::read(&report(body), 40);
        let ReturnedMail::Whole(mail) = read(b"hello") else {
            panic!("it is whole")
        };
        assert_eq!(&*mail, "Subject: hi\r\n\r\nhello");
        for (body, why) in [
            (
                &b"this line is longer than it may be"[..],
                "job.inline_max, 40",
            ),
            (b"caf\xe9", "UTF-8"),
        ] {
            let warning = read(body).warning().unwrap();
            assert!(warning.reason.contains(why), "{}", warning.reason);
        }
        assert!(matches!(read(b""), ReturnedMail::None));
    }
}
