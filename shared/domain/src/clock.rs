//! Instants, and the trait for the source of "now". In production the clock of Redis decides. Tests
//! and the demo pass in their own instants. The machine's clocks are in the crate `system`.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// An instant, in whole milliseconds since the Unix epoch. In JSON it is RFC 3339 text in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Returns the instant `ms` milliseconds after the Unix epoch.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Returns the milliseconds since the Unix epoch.
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339 text with any offset, to the millisecond. Returns `None` if it is not such an
    /// instant. Second 60 is allowed only at the end of a month in UTC, because leap seconds occur
    /// only there (RFC 3339, appendix D). A leap second is read as the second that follows.
    pub fn parse(text: &str) -> Option<Self> {
        let instant = DateTime::parse_from_rfc3339(text).ok()?.to_utc();
        // `chrono` represents a leap second as second 59 with more than a second of nanoseconds.
        if instant.timestamp_subsec_nanos() >= NANOS_PER_SECOND {
            let after = DateTime::<Utc>::from_timestamp_secs(instant.timestamp() + 1)?;
            let ends_a_month = after.day() == 1 && after.num_seconds_from_midnight() == 0;
            return ends_a_month.then(|| Self(instant.timestamp_millis()));
        }
        Some(Self(instant.timestamp_millis()))
    }

    /// Returns the time from `earlier` to this instant; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0).try_into().unwrap_or(0))
    }

    /// Returns this instant moved later by `span`.
    pub fn plus(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(span.as_millis().try_into().unwrap_or(i64::MAX)),
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_millis(self.0) {
            Some(instant) => f.write_str(&instant.to_rfc3339_opts(SecondsFormat::Millis, true)),
            None => write!(f, "{} ms after the epoch", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("not an RFC 3339 instant"))
    }
}

/// Serializes a [`Timestamp`] as a plain number of milliseconds, as in the records in Redis.
pub mod as_ms {
    use super::{Deserialize, Deserializer, Serializer, Timestamp};

    /// Writes the instant as a number.
    pub fn serialize<S: Serializer>(instant: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(instant.ms())
    }

    /// Reads the instant from a number.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(deserializer).map(Timestamp::from_ms)
    }
}

/// The source of a process's instants.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the current instant of this clock.
    fn now(&self) -> Timestamp;

    /// Returns the instant to pass to the store's scripts, or `None` if Redis is to read its own
    /// clock.
    fn instant_for_scripts(&self) -> Option<Timestamp>;

    /// Returns how much time has passed on this clock since some fixed instant. Time while the
    /// machine is suspended counts, and setting the clock changes nothing. Only the difference of
    /// two such values has a meaning.
    fn monotonic(&self) -> Duration;

    /// Returns how much real time it takes until `span` has passed on this clock.
    fn real_duration(&self, span: Duration) -> Duration;
}

/// A clock that shows the same instant until it is moved, for tests.
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicI64,
    running_ms: AtomicU64,
}

impl ManualClock {
    /// Returns a clock that shows `now` until it is moved.
    pub fn new(now: Timestamp) -> Self {
        Self {
            now_ms: AtomicI64::new(now.ms()),
            running_ms: AtomicU64::new(0),
        }
    }

    /// Moves the clock forward by `span`.
    pub fn advance(&self, span: Duration) {
        self.set(self.now().plus(span));
    }

    /// Moves the clock to `now`. A later instant counts as time that has passed. An earlier one
    /// only sets the clock back.
    pub fn set(&self, now: Timestamp) {
        let before = Timestamp::from_ms(self.now_ms.swap(now.ms(), Ordering::SeqCst));
        let passed = now.since(before).as_millis().try_into().unwrap_or(u64::MAX);
        self.running_ms.fetch_add(passed, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.now_ms.load(Ordering::SeqCst))
    }

    fn instant_for_scripts(&self) -> Option<Timestamp> {
        Some(self.now())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.running_ms.load(Ordering::SeqCst))
    }

    fn real_duration(&self, _span: Duration) -> Duration {
        // It is unknown when the test will move the clock, so waiting code checks again soon.
        Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_the_clock_back_does_not_undo_passed_time() {
        let clock = ManualClock::new(Timestamp::from_ms(5_000));
        clock.advance(Duration::from_secs(3));
        clock.set(Timestamp::from_ms(1_000));
        assert_eq!(clock.monotonic(), Duration::from_secs(3));
        clock.set(Timestamp::from_ms(2_000));
        assert_eq!(clock.monotonic(), Duration::from_secs(4));
    }

    #[test]
    fn instants_are_read_and_printed_as_rfc_3339() {
        for (text, printed) in [
            ("2026-11-21T09:30:00Z", "2026-11-21T09:30:00.000Z"),
            ("2026-11-21T10:30:00.250+01:00", "2026-11-21T09:30:00.250Z"),
            ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), printed);
        }
        for text in [
            "",
            "yesterday",
            "2026-11-21",
            "2026-13-01T00:00:00Z",
            "2026-11-21T09:30:00",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_leap_second_is_read_only_at_the_end_of_a_month() {
        for (text, printed) in [
            ("2016-12-31T23:59:60Z", Some("2017-01-01T00:00:00.000Z")),
            ("2015-06-30T23:59:60.25Z", Some("2015-07-01T00:00:00.250Z")),
            (
                "2017-01-01T00:59:60+01:00",
                Some("2017-01-01T00:00:00.000Z"),
            ),
            (
                "2016-12-31T15:59:60-08:00",
                Some("2017-01-01T00:00:00.000Z"),
            ),
            ("2028-02-29T23:59:60Z", Some("2028-03-01T00:00:00.000Z")),
            ("2026-11-21T12:30:60Z", None),
            ("2026-11-21T23:59:60Z", None),
            ("2016-12-31T23:59:60+01:00", None),
            ("2016-12-31T22:59:60Z", None),
            ("2016-12-31T23:59:61Z", None),
            ("2016-12-31T23:60:00Z", None),
        ] {
            assert_eq!(
                Timestamp::parse(text)
                    .map(|read| read.to_string())
                    .as_deref(),
                printed,
                "{text}"
            );
        }
    }

    #[test]
    fn durations_never_go_below_zero_and_never_overflow() {
        let noon = Timestamp::from_ms(1_000);
        assert_eq!(noon.since(Timestamp::from_ms(4_000)), Duration::ZERO);
        assert_eq!(
            noon.since(Timestamp::from_ms(400)),
            Duration::from_millis(600)
        );
        assert_eq!(noon.plus(Duration::MAX), Timestamp::from_ms(i64::MAX));
    }
}
