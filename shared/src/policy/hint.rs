//! Retry hints: "try again in 300 seconds". Receiving servers say in the reply's text how long to stay away.

use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;

static HINT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)\b(?:again|retry|wait|greylisted|delay(?:ed)?|come back|after|for|in)\b[^0-9]{0,24}?(\d{1,6})\s*(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?)\b",
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
    let count: u64 = found[1].parse().ok()?;
    let unit_s = match found[2].as_bytes()[0].to_ascii_lowercase() {
        b's' => 1,
        b'm' => 60,
        _ => 3_600,
    };
    Some(Duration::from_secs(count * unit_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_read_in_seconds_minutes_and_hours() {
        for (text, seconds) in [
            ("please try again in 300 seconds", Some(300)),
            ("Greylisted, come back in 5 minutes", Some(300)),
            ("retry-after: 90s", Some(90)),
            ("Try again after 2 hours", Some(7_200)),
            ("greylisted for 60 secs", Some(60)),
            ("delayed, wait at least 10 min.", Some(600)),
            ("mailbox full", None),
            ("quota 300 MB exceeded, try again later", None),
            ("the account has been disabled for 300 messages", None),
        ] {
            assert_eq!(hint(text), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
