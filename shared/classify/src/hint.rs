//! Retry hints: "try again in 300 seconds". Receiving servers say in the reply's text how long to
//! stay away.

use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;

/// A word that asks to stay away, then the span: "300 seconds", or hours, minutes and seconds as
/// milter-greylist has them.
static HINT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)\b(?:again|retry|try|wait|gr[ae]ylist\w*|delay(?:ed)?|deferred|come back|resend|back)\b[^0-9]{0,32}?(?:(\d{1,6})\s*(s|m|h|d|secs?|mins?|hrs?|seconds?|minutes?|hours?|days?)\b|(\d{1,3}):(\d\d):(\d\d)\b)",
    )
    .expect("the pattern is a constant that the tests compile")
});

/// The span of time that the reply's text asks for, if it asks for one.
pub fn hint(text: &str) -> Option<Duration> {
    // Most replies have no digits in them, and a look is cheaper than a match.
    if !text.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    let found = HINT.captures(text)?;
    let number = |group: usize| {
        found
            .get(group)
            .and_then(|digits| digits.as_str().parse::<u64>().ok())
    };
    let seconds = match found
        .get(2)
        .map(|unit| unit.as_str().as_bytes()[0].to_ascii_lowercase())
    {
        Some(b's') => number(1)?,
        Some(b'm') => number(1)? * 60,
        Some(b'h') => number(1)? * 3_600,
        Some(_) => number(1)? * 86_400,
        None => number(3)? * 3_600 + number(4)? * 60 + number(5)?,
    };
    Some(Duration::from_secs(seconds))
}

/// What stands before a span that the peer asked for in so many words, where it can say so apart
/// from the reply.
const ASKED: &str = "retry-after: ";

/// The most that can be asked for, in seconds; policy's bounds are far below.
const ASKED_MAX_S: u64 = 999_999;

/// A reply's text with the span that the peer asked for beside it, in seconds. It stands first,
/// because a text may name other times; [`hint`] finds it too.
pub fn asking(text: &str, retry_after_s: Option<u64>) -> String {
    match retry_after_s {
        Some(seconds) => format!("{ASKED}{}s; {text}", seconds.min(ASKED_MAX_S)),
        None => text.to_owned(),
    }
}

/// The span that the peer asked for beside its reply, as [`asking`] has written it down.
pub fn asked(text: &str) -> Option<Duration> {
    let (seconds, _) = text.strip_prefix(ASKED)?.split_once("s; ")?;
    seconds.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_read_in_seconds_minutes_hours_and_days() {
        for (text, seconds) in [
            ("please try again in 300 seconds", Some(300)),
            ("Greylisted, come back in 5 minutes", Some(300)),
            ("retry-after: 90s", Some(90)),
            ("Try again after 2 hours", Some(7_200)),
            ("greylisted for 60 secs", Some(60)),
            ("come back in 2 days", Some(172_800)),
            ("retry in 1 d", Some(86_400)),
            ("wait 45 min", Some(2_700)),
            ("delayed, wait at least 10 min.", Some(600)),
            (
                "Greylisting in action, please come back in 00:04:30",
                Some(270),
            ),
            ("mailbox full", None),
            ("message expired: unable to deliver in 840 minutes", None),
            ("still undelivered after 4 hours", None),
            ("quota 300 MB exceeded, try again later", None),
            ("the account has been disabled for 300 messages", None),
        ] {
            assert_eq!(hint(text), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn what_was_asked_for_beside_the_text_is_told_from_what_the_text_says() {
        let both = asking("try again in 5 minutes", Some(90));
        assert_eq!(
            (asked(&both), hint(&both)),
            (Some(Duration::from_secs(90)), Some(Duration::from_secs(90)))
        );
        assert_eq!(
            asked(&asking("", Some(u64::MAX))),
            Some(Duration::from_secs(ASKED_MAX_S))
        );
        for text in [
            "try again in 5 minutes",
            "please retry-after: 90s; ok",
            "retry-after: soon; ok",
            "",
        ] {
            assert_eq!(asked(&asking(text, None)), None, "{text}");
        }
    }
}
