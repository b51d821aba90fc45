//! Formats numbers and durations for people: `1,234`, `30m`, `24h`, `7d`.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Formats a duration as a whole number of the largest possible unit. Days are used only from a
/// week on, because shorter delays are usually given in hours.
pub(crate) fn span(span: Duration) -> String {
    match span.as_secs() {
        s if s >= 7 * DAY && s % DAY == 0 => format!("{}d", s / DAY),
        s if s >= HOUR && s % HOUR == 0 => format!("{}h", s / HOUR),
        s if s >= MINUTE && s % MINUTE == 0 => format!("{}m", s / MINUTE),
        s => format!("{s}s"),
    }
}

/// Formats several durations, separated by spaces.
pub(crate) fn spans(list: &[Duration]) -> String {
    list.iter()
        .map(|one| span(*one))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Formats a duration roughly, as at most two units: `45s`, `31m`, `1h30m`, `26h`, `7d`. Days are
/// used from three days on.
pub(crate) fn rough(span: Duration) -> String {
    let units = |s: u64| match s {
        0..HOUR => ((MINUTE, "m"), (1, "s")),
        HOUR..259_200 => ((HOUR, "h"), (MINUTE, "m")),
        _ => ((DAY, "d"), (HOUR, "h")),
    };
    let s = (span + Duration::from_millis(500)).as_secs();
    if s < MINUTE {
        return format!("{s}s");
    }
    let ((large, _), (small, _)) = units(s);
    let precision = if s < 10 * large { small } else { large };
    let s = (s + precision / 2) / precision * precision;
    let ((large, name), (small, small_name)) = units(s);
    match (s / large, s % large / small) {
        (whole, 0) => format!("{whole}{name}"),
        (whole, rest) => format!("{whole}{name}{rest}{small_name}"),
    }
}

/// Formats how long something took: `7ms`, `1.24s`, `12.4s`, `2m5s`.
pub(crate) fn took(span: Duration) -> String {
    match span.as_millis() {
        ms @ 0..1_000 => format!("{ms}ms"),
        1_000..10_000 => format!("{:.2}s", span.as_secs_f64()),
        10_000..60_000 => format!("{:.1}s", span.as_secs_f64()),
        _ => rough(span),
    }
}

/// Formats a number with a comma at each thousand.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_a_comma_at_each_thousand() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }

    #[test]
    fn rough_durations_have_at_most_two_units() {
        let list = [
            0, 59, 61, 660, 5_400, 95_000, 86_400, 172_800, 270_000, 604_801,
        ];
        assert_eq!(
            list.map(Duration::from_secs).map(rough),
            [
                "0s", "59s", "1m1s", "11m", "1h30m", "26h", "24h", "48h", "3d3h", "7d"
            ]
        );
        let list = [7, 1_240, 12_430, 125_000];
        assert_eq!(
            list.map(Duration::from_millis).map(took),
            ["7ms", "1.24s", "12.4s", "2m5s"]
        );
    }

    #[test]
    fn durations_are_formatted_like_in_the_policy_table() {
        let list = [1_800, 3_600, 86_400, 172_800, 604_800, 90].map(Duration::from_secs);
        assert_eq!(spans(&list), "30m 1h 24h 48h 7d 90s");
    }
}
