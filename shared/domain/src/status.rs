//! The enhanced status code, `class.subject.detail`: the machine-readable half of an SMTP reply
//! (RFC 3463, RFC 5248). What a status means for a job is decided in the crate `policy`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub mod pattern;

/// The first number of an enhanced status: success, or the kind of failure (RFC 3463, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum StatusClass {
    /// 2: success.
    Success = 2,
    /// 4: a failure for now. The same message may be delivered later.
    Transient = 4,
    /// 5: a permanent failure. Sending the same message again will not help.
    Permanent = 5,
}

impl StatusClass {
    /// Returns the class with this number, which is also the first digit of an SMTP code. Returns
    /// `None` for all numbers except 2, 4 and 5.
    pub const fn from_digit(digit: u8) -> Option<Self> {
        match digit {
            2 => Some(Self::Success),
            4 => Some(Self::Transient),
            5 => Some(Self::Permanent),
            _ => None,
        }
    }

    /// Returns the number of this class: 2, 4 or 5.
    pub const fn digit(self) -> u8 {
        self as u8
    }
}

/// An enhanced status such as `4.3.1`. It has exactly one spelling, as text and in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnhancedStatus {
    class: StatusClass,
    subject: u16,
    detail: u16,
}

impl EnhancedStatus {
    /// The largest possible subject and detail (RFC 3463, section 2: at most three digits).
    pub const MAX_NUMBER: u16 = 999;

    /// Returns the status `class.subject.detail`. Use it for constants; text from outside is
    /// parsed.
    ///
    /// # Panics
    /// If subject or detail is above [`Self::MAX_NUMBER`]. A constant with such a number does not
    /// compile.
    pub const fn new(class: StatusClass, subject: u16, detail: u16) -> Self {
        assert!(
            subject <= Self::MAX_NUMBER && detail <= Self::MAX_NUMBER,
            "subject and detail are 0 to 999"
        );
        Self {
            class,
            subject,
            detail,
        }
    }

    /// Returns the class.
    pub const fn class(self) -> StatusClass {
        self.class
    }

    /// Returns the subject: 1 the address, 2 the mailbox, 3 the mail system, … (RFC 3463, section
    /// 3.1).
    pub const fn subject(self) -> u16 {
        self.subject
    }

    /// Returns the detail of the subject (RFC 3463, sections 3.2 to 3.8).
    pub const fn detail(self) -> u16 {
        self.detail
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class.digit(), self.subject, self.detail)
    }
}

/// Why a text is not an [`EnhancedStatus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an enhanced status: write class.subject.detail, such as 4.3.1, with a class of 2, 4 or 5 \
     and subject and detail from 0 to 999 without leading zeros"
)]
pub struct StatusError;

impl FromStr for EnhancedStatus {
    type Err = StatusError;

    /// Reads exactly `class.subject.detail`. Leading zeros are rejected. RFC 3463, section 2,
    /// forbids them, and mail systems do not write them: text with leading zeros (`4.05.24`) is a
    /// date.
    fn from_str(text: &str) -> Result<Self, StatusError> {
        let mut parts = text.split('.').map(number);
        let (Some(Some(class)), Some(Some(subject)), Some(Some(detail)), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(StatusError);
        };
        let class = u8::try_from(class)
            .ok()
            .and_then(StatusClass::from_digit)
            .ok_or(StatusError)?;
        Ok(Self {
            class,
            subject,
            detail,
        })
    }
}

/// Reads one to three digits without a leading zero.
fn number(digits: &str) -> Option<u16> {
    let plain = matches!(digits.len(), 1..=3) && digits.bytes().all(|b| b.is_ascii_digit());
    let padded = digits.len() > 1 && digits.starts_with('0');
    if plain && !padded {
        digits.parse().ok()
    } else {
        None
    }
}

impl Serialize for EnhancedStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EnhancedStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StatusClass::{Permanent, Success, Transient};

    #[test]
    fn a_status_is_printed_as_it_was_read() {
        for (text, class, subject, detail) in [
            ("2.0.0", Success, 0, 0),
            ("4.3.1", Transient, 3, 1),
            ("4.7.650", Transient, 7, 650),
            ("5.1.10", Permanent, 1, 10),
            ("5.999.999", Permanent, 999, 999),
        ] {
            let status: EnhancedStatus = text.parse().unwrap();
            assert_eq!(status, EnhancedStatus::new(class, subject, detail));
            assert_eq!(
                (status.class(), status.subject(), status.detail()),
                (class, subject, detail)
            );
            assert_eq!(status.to_string(), text);
            assert_eq!(
                serde_json::to_string(&status).unwrap(),
                format!("\"{text}\"")
            );
            assert_eq!(
                serde_json::from_str::<EnhancedStatus>(&format!("\"{text}\"")).unwrap(),
                status
            );
        }
    }

    #[test]
    fn a_text_that_is_not_a_status_is_rejected() {
        for text in [
            "",
            ".",
            "..",
            "4",
            "4.3",
            "4.3.",
            ".3.1",
            "4..1",
            "4.3.1.",
            "4.3.1.0",
            " 4.3.1",
            "4.3.1 ",
            "4. 3.1",
            "1.2.3",
            "3.0.0",
            "6.0.0",
            "44.3.1",
            "04.3.1",
            "4.03.1",
            "4.3.01",
            "4.3.00",
            "4.1000.1",
            "4.3.1000",
            "4.+3.1",
            "4.-3.1",
            "4.3.x",
            "v4.3.1",
            "4,3,1",
            "４.３.１",
            "4.3.٣",
            "\0",
            "4.99999999999999999999.1",
        ] {
            assert_eq!(text.parse::<EnhancedStatus>(), Err(StatusError), "{text:?}");
        }
        assert!(serde_json::from_str::<EnhancedStatus>("431").is_err());
    }

    #[test]
    fn the_classes_are_2_4_and_5() {
        for digit in 0..=u8::MAX {
            let class = StatusClass::from_digit(digit);
            assert_eq!(class.is_some(), [2, 4, 5].contains(&digit), "{digit}");
            assert_eq!(class.map_or(digit, StatusClass::digit), digit);
        }
    }

    #[test]
    fn statuses_are_ordered_by_number_not_as_text() {
        let [low, mid, high] =
            ["4.7.2", "4.7.28", "5.0.0"].map(|text| text.parse::<EnhancedStatus>().unwrap());
        assert!(low < mid && mid < high);
    }
}
