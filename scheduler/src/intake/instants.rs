//! Instants as mail services and logs write them, which is not always RFC 3339.

use chrono::{DateTime, FixedOffset, NaiveDateTime};
use domain::clock::Timestamp;

/// Forms of an instant with its offset from UTC, besides RFC 3339.
const WITH_OFFSET: [&str; 2] = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z"];

/// Forms of an instant without its offset.
const WITHOUT_OFFSET: [&str; 2] = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];

/// Reads an instant: as in RFC 3339, in the other forms of ISO 8601 that are in use
/// (`2026-11-28T10:00:01+0100`), or as in mail (RFC 5322, section 3.3). An instant without an
/// offset has the given one.
pub(super) fn read_instant(text: &str, offset: FixedOffset) -> Option<Timestamp> {
    let text = text.trim();
    if let Some(at) = Timestamp::parse(text) {
        return Some(at);
    }
    let with_offset = WITH_OFFSET
        .iter()
        .find_map(|form| DateTime::parse_from_str(text, form).ok())
        .or_else(|| DateTime::parse_from_rfc2822(text).ok());
    let at = with_offset.or_else(|| {
        let naive = WITHOUT_OFFSET
            .iter()
            .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())?;
        naive.and_local_timezone(offset).single()
    })?;
    Some(Timestamp::from_ms(at.timestamp_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_in_the_forms_that_are_in_use() {
        let noon = Timestamp::parse("2026-11-21T12:00:00Z");
        let hour = FixedOffset::east_opt(3_600).unwrap();
        for text in [
            "2026-11-21T12:00:00Z",
            "2026-11-21T13:00:00.000000000+01:00",
            "2026-11-21T13:00:00+0100",
            "2026-11-21T13:00:00.0+0100",
            "2026-11-21T07:00:00-05",
            "2026-11-21 13:00:00 +0100",
            "2026-11-21T13:00:00",
            "2026-11-21T13:00:00.0000000",
            "2026-11-21 13:00:00",
            "Sat, 21 Nov 2026 12:00:00 GMT",
            "Sat, 21 Nov 2026 13:00:00 +0100",
        ] {
            assert_eq!(read_instant(text, hour), noon, "{text}");
        }
        for text in [
            "",
            "yesterday",
            "2026-11-31T13:00:00",
            "12:00",
            "2026-11-21",
        ] {
            assert_eq!(read_instant(text, hour), None, "{text}");
        }
    }
}
