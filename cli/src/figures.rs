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
    fn durations_are_formatted_like_in_the_policy_table() {
        let list = [1_800, 3_600, 86_400, 172_800, 604_800, 90].map(Duration::from_secs);
        assert_eq!(spans(&list), "30m 1h 24h 48h 7d 90s");
    }
}
