//! Formats instants for people: to the second, and with how far away they are.

use domain::clock::{Clock, Timestamp};
use serde_json::Value;
use system::clock::SystemClock;

use crate::figures::rough;

/// Formats an instant of the API like `2026-11-22 04:17:09Z (in 2h)`. Any other text is returned
/// as it is.
pub(crate) fn instant(value: &Value) -> String {
    instant_at(value, SystemClock.now())
}

/// Formats an instant like [`instant`], when it is `now`.
pub(crate) fn instant_at(value: &Value, now: Timestamp) -> String {
    let text = value.as_str().unwrap_or_default();
    match Timestamp::parse(text) {
        Some(at) => format!("{} ({})", to_the_second(at), distance(at, now)),
        None => text.to_owned(),
    }
}

/// Formats how far away an instant is: `in 2h`, `3h ago`, or `now`.
pub(crate) fn distance(at: Timestamp, now: Timestamp) -> String {
    let (after, before) = (rough(at.since(now)), rough(now.since(at)));
    match (after.as_str(), before.as_str()) {
        ("0s", "0s") => "now".to_owned(),
        (after, "0s") => format!("in {after}"),
        (_, before) => format!("{before} ago"),
    }
}

fn to_the_second(at: Timestamp) -> String {
    let text = at.to_string();
    let seconds = text.split('.').next().unwrap_or_default();
    format!("{}Z", seconds.trim_end_matches('Z').replacen('T', " ", 1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_instant_has_its_distance() {
        let now = Timestamp::parse("2026-11-22T02:00:00Z").unwrap();
        for (at, expected) in [
            ("2026-11-22T04:00:00.112Z", "2026-11-22 04:00:00Z (in 2h)"),
            ("2026-11-22T02:24:00Z", "2026-11-22 02:24:00Z (in 24m)"),
            ("2026-11-21T23:00:00Z", "2026-11-21 23:00:00Z (3h ago)"),
            ("2026-11-22T02:00:00.300Z", "2026-11-22 02:00:00Z (now)"),
            ("whenever", "whenever"),
        ] {
            assert_eq!(instant_at(&json!(at), now), expected);
        }
        assert_eq!(instant_at(&Value::Null, now), "");
    }
}
