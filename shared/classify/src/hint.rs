//! Retry hints such as "try again in 300 seconds": how long the receiving server asks us to wait.

use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;

/// A word that asks to wait, then the span: "300 seconds", or hours, minutes and seconds as
/// milter-greylist writes them.
static HINT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)\b(?:again|retry|try|wait|gr[ae]ylist\w*|delay(?:ed)?|deferred",
        r"|come back|resend|back)\b",
        r"[^0-9]{0,32}?",
        r"(?:(\d{1,6})\s*(s|m|h|d|secs?|mins?|hrs?|seconds?|minutes?|hours?|days?)\b",
        r"|(\d{1,3}):(\d\d):(\d\d)\b)",
    ))
    .expect("the pattern is a constant that the tests compile")
});

/// Returns the span of time that the reply's text asks for, if any.
pub fn hint(text: &str) -> Option<Duration> {
    // Most replies contain no digit, and this check is cheaper than a match.
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

/// The prefix of a span that the peer asked for outside its reply's text, for example in an HTTP
/// header.
const RETRY_AFTER: &str = "retry-after: ";

/// The largest span that is recorded, in seconds. The limits of the policy are far below.
const RETRY_AFTER_MAX_S: u64 = 999_999;

/// Returns the reply's text with the span in seconds that the peer asked for outside it. The span
/// comes first, because the text may contain other times. [`hint`] finds the span too.
pub fn with_retry_after(text: &str, retry_after_s: Option<u64>) -> String {
    match retry_after_s {
        Some(seconds) => format!("{RETRY_AFTER}{}s; {text}", seconds.min(RETRY_AFTER_MAX_S)),
        None => text.to_owned(),
    }
}

/// Returns the span that the peer asked for outside the text, as [`with_retry_after`] wrote it.
pub fn retry_after(text: &str) -> Option<Duration> {
    let (seconds, _) = text.strip_prefix(RETRY_AFTER)?.split_once("s; ")?;
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
    fn a_separate_retry_after_is_distinguished_from_a_hint_in_the_text() {
        let both = with_retry_after("try again in 5 minutes", Some(90));
        assert_eq!(
            (retry_after(&both), hint(&both)),
            (Some(Duration::from_secs(90)), Some(Duration::from_secs(90)))
        );
        assert_eq!(
            retry_after(&with_retry_after("", Some(u64::MAX))),
            Some(Duration::from_secs(RETRY_AFTER_MAX_S))
        );
        for text in [
            "try again in 5 minutes",
            "please retry-after: 90s; ok",
            "retry-after: soon; ok",
            "",
        ] {
            assert_eq!(retry_after(&with_retry_after(text, None)), None, "{text}");
        }
    }
}
