//! A pattern that selects replies by status: one exact status, a family of them, or a bare reply
//! code.

use std::fmt;
use std::str::FromStr;

use crate::reply::Reply;
use crate::status::{EnhancedStatus, StatusClass};

/// A pattern on a reply's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusPattern {
    /// `*`: every reply.
    Any,
    /// `none`: every reply that has neither a status nor a code.
    Bare,
    /// `4.*.*`: every reply of the class. A code without a status matches by its first digit.
    Class(StatusClass),
    /// `421`: this code, if the reply has no status.
    Code(u16),
    /// `4.3.*`: every status of the subject.
    Subject(StatusClass, u16),
    /// `4.7.500-699`: every status of the subject with a detail in this range, both ends included.
    Details(StatusClass, u16, u16, u16),
    /// `4.3.1`: this status.
    Exact(EnhancedStatus),
    /// `542 5.0.0`: this code and this status.
    Both(u16, EnhancedStatus),
}

/// Why a text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a status pattern looks like 4.3.1, 4.3.*, 4.*.*, 4.7.500-699, 421, 542 5.0.0, none or *")]
pub struct NotAPattern;

impl StatusPattern {
    /// Returns how exact the pattern is. If two patterns match a reply, the one with the larger
    /// number is more specific.
    pub fn exactness(&self) -> u16 {
        match self {
            Self::Any => 0,
            Self::Bare | Self::Class(_) => 1,
            Self::Code(_) => 2,
            Self::Subject(..) => 3,
            // A range has at most 1,000 details. The fewer it has, the more exact it is.
            Self::Details(_, _, from, to) => 1_004 - (to - from + 1),
            Self::Exact(_) => 1_004,
            Self::Both(..) => 1_005,
        }
    }

    /// Whether the pattern matches the reply.
    pub fn matches(&self, reply: &Reply) -> bool {
        match *self {
            Self::Any => true,
            Self::Bare => reply.code.is_none() && reply.status.is_none(),
            Self::Class(class) => reply.class() == Some(class),
            Self::Code(code) => reply.status.is_none() && reply.code == Some(code),
            Self::Subject(class, subject) => reply
                .status
                .is_some_and(|s| s.class() == class && s.subject() == subject),
            Self::Details(class, subject, from, to) => reply.status.is_some_and(|s| {
                s.class() == class && s.subject() == subject && (from..=to).contains(&s.detail())
            }),
            Self::Exact(status) => reply.status == Some(status),
            Self::Both(code, status) => reply.code == Some(code) && reply.status == Some(status),
        }
    }
}

impl FromStr for StatusPattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text == "none" {
            return Ok(Self::Bare);
        }
        if let Ok(status) = text.parse() {
            return Ok(Self::Exact(status));
        }
        if let Some((code, status)) = text.split_once(' ') {
            return match (code.parse()?, status.parse()?) {
                (Self::Code(code), Self::Exact(status)) => Ok(Self::Both(code, status)),
                _ => Err(NotAPattern),
            };
        }
        let number = |part: &str| {
            part.parse::<u16>()
                .ok()
                .filter(|n| *n <= 999)
                .ok_or(NotAPattern)
        };
        let class = |part: &str| number(part).ok().and_then(class_of).ok_or(NotAPattern);
        match *text.split('.').collect::<Vec<_>>() {
            [code] => number(code)
                .ok()
                .filter(|code| (400..=599).contains(code))
                .map(Self::Code)
                .ok_or(NotAPattern),
            [c, "*", "*"] => Ok(Self::Class(class(c)?)),
            [c, subject, "*"] => Ok(Self::Subject(class(c)?, number(subject)?)),
            [c, subject, details] => {
                let (from, to) = details.split_once('-').ok_or(NotAPattern)?;
                let (from, to) = (number(from)?, number(to)?);
                if from > to {
                    return Err(NotAPattern);
                }
                Ok(Self::Details(class(c)?, number(subject)?, from, to))
            }
            _ => Err(NotAPattern),
        }
    }
}

fn class_of(digit: u16) -> Option<StatusClass> {
    [
        StatusClass::Success,
        StatusClass::Transient,
        StatusClass::Permanent,
    ]
    .into_iter()
    .find(|class| u16::from(class.digit()) == digit)
}

impl fmt::Display for StatusPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Bare => f.write_str("none"),
            Self::Class(class) => write!(f, "{}.*.*", class.digit()),
            Self::Code(code) => write!(f, "{code}"),
            Self::Subject(class, subject) => write!(f, "{}.{subject}.*", class.digit()),
            Self::Details(class, subject, from, to) => {
                write!(f, "{}.{subject}.{from}-{to}", class.digit())
            }
            Self::Exact(status) => write!(f, "{status}"),
            Self::Both(code, status) => write!(f, "{code} {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_exactly_its_statuses() {
        for (pattern, matching, other) in [
            ("4.3.1", "452 4.3.1 full", "452 4.3.10 full"),
            ("4.3.*", "451 4.3.9 x", "451 4.4.3 x"),
            ("4.*.*", "450 busy", "550 4x"),
            ("4.7.500-699", "451 4.7.650 x", "451 4.7.700 x"),
            ("421", "421 go away", "421 4.3.2 go away"),
            ("5.*.*", "554 no", "454 no"),
            ("542 5.0.0", "542 5.0.0 no", "550 5.0.0 no"),
            ("542 5.0.0", "542 5.0.0 no", "542 no"),
            ("none", "no such user", "550 no such user"),
        ] {
            let parsed: StatusPattern = pattern.parse().unwrap();
            assert!(
                parsed.matches(&Reply::parse(matching)),
                "{pattern} matches {matching}"
            );
            assert!(
                !parsed.matches(&Reply::parse(other)),
                "{pattern} does not match {other}"
            );
            assert_eq!(parsed.to_string(), pattern);
        }
        assert!(
            "*".parse::<StatusPattern>()
                .unwrap()
                .matches(&Reply::parse("Briefkasten voll"))
        );
    }

    #[test]
    fn a_text_that_is_not_a_pattern_is_rejected() {
        for text in [
            "",
            "4",
            "4.3",
            "4.*.1",
            "3.1.1",
            "4.3.x",
            "4.7.9-1",
            "250",
            "999",
            "4.3.1.1",
            "4..",
            "４.3.1",
            "542 none",
            "542 5.*.*",
            "5.0.0 542",
            "542 ",
        ] {
            assert_eq!(text.parse::<StatusPattern>(), Err(NotAPattern), "{text}");
        }
    }

    #[test]
    fn a_more_exact_pattern_ranks_above_a_general_one() {
        let ranked: Vec<StatusPattern> = [
            "*",
            "4.*.*",
            "421",
            "4.3.*",
            "4.7.0-999",
            "4.7.500-699",
            "4.7.500-599",
            "4.7.1-1",
            "4.3.1",
            "452 4.3.1",
        ]
        .iter()
        .map(|p| p.parse().unwrap())
        .collect();
        assert!(ranked.is_sorted_by_key(StatusPattern::exactness));
    }
}
