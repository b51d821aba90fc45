//! Spans of time as people read them in a schedule: `30m`, `24h`, `7d`.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The span in its largest whole unit; days only from a week on, because schedules are told in hours up to there.
pub(crate) fn span(span: Duration) -> String {
    match span.as_secs() {
        s if s >= 7 * DAY && s % DAY == 0 => format!("{}d", s / DAY),
        s if s >= HOUR && s % HOUR == 0 => format!("{}h", s / HOUR),
        s if s >= MINUTE && s % MINUTE == 0 => format!("{}m", s / MINUTE),
        s => format!("{s}s"),
    }
}

/// Several spans with spaces between.
pub(crate) fn spans(list: &[Duration]) -> String {
    list.iter().map(|one| span(*one)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_like_the_table() {
        let list = [1_800, 3_600, 86_400, 172_800, 604_800, 90].map(Duration::from_secs);
        assert_eq!(spans(&list), "30m 1h 24h 48h 7d 90s");
    }
}
