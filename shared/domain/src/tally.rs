//! Tallies: counts of the attempts at one destination on one day, grouped by result, status,
//! attempt number, hour and waiting time. The store counts an attempt in the same call that settles
//! it, so tallies and journal cannot disagree.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::status::EnhancedStatus;

/// How an attempt ended, as tallies count it. Each attempt is counted once, by one of the variants
/// up to [`Self::Unknown`]. The two variants after it count how an attempt ended that was counted
/// as [`Self::Accepted`] before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TallyResult {
    /// A message was delivered.
    Delivered,
    /// A relay accepted a message. The job waits for a bounce, or until the time for one is over.
    Accepted,
    /// The job waits for its next attempt.
    Deferred,
    /// The address left the active list.
    Retired,
    /// No message was left to try: all were given up or had expired.
    Ended,
    /// A message was sent whole, but no reply came, so it may have been accepted or not. It counts
    /// here even if the job was then deferred or ended, but not if the address was retired.
    Unknown,
    /// Not an attempt: no bounce came for a message that a relay had accepted, so the message
    /// counts as delivered.
    Confirmed,
    /// Not an attempt: a bounce came for a message that a relay had accepted.
    Refuted,
}

/// One group of a tally: attempts with the same values in all these fields are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tally {
    /// How the attempt ended.
    pub result: TallyResult,
    /// The status of the failure: of this attempt if it failed, else of the previous one.
    pub status: Option<EnhancedStatus>,
    /// The attempt's number. The platform's own attempt was 0.
    pub attempt: u32,
    /// The hour of the day, in UTC.
    pub hour: u8,
    /// The age of the job: the smallest n such that the job was at most 2^n hours old, but at most
    /// [`BUCKET_MAX`].
    pub bucket: u8,
}

/// The last bucket: 1,024 hours (about six weeks) and everything longer.
pub const BUCKET_MAX: u8 = 10;

impl TallyResult {
    const ALL: [Self; 8] = [
        Self::Delivered,
        Self::Accepted,
        Self::Deferred,
        Self::Retired,
        Self::Ended,
        Self::Unknown,
        Self::Confirmed,
        Self::Refuted,
    ];

    /// Whether it counts an attempt, and not the later end of an attempt that is already counted.
    pub const fn is_attempt(self) -> bool {
        !matches!(self, Self::Confirmed | Self::Refuted)
    }

    /// Returns the word used in Redis and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Accepted => "accepted",
            Self::Deferred => "deferred",
            Self::Retired => "retired",
            Self::Ended => "ended",
            Self::Unknown => "unknown",
            Self::Confirmed => "confirmed",
            Self::Refuted => "refuted",
        }
    }
}

impl Tally {
    /// Returns the tally of an attempt at `now`, for a job that was created at `created`.
    pub fn new(
        result: TallyResult,
        status: Option<EnhancedStatus>,
        attempt: u32,
        created: Timestamp,
        now: Timestamp,
    ) -> Self {
        let hour =
            u8::try_from(now.ms().rem_euclid(86_400_000) / 3_600_000).expect("a day has 24 hours");
        Self {
            result,
            status,
            attempt,
            hour,
            bucket: bucket(now.since(created)),
        }
    }
}

fn bucket(waited: Duration) -> u8 {
    (0..BUCKET_MAX)
        .find(|n| waited <= Duration::from_secs(3_600 << n))
        .unwrap_or(BUCKET_MAX)
}

/// The form in Redis: `delivered 4.3.1 2 14 5`, with `-` if there is no status.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.result.as_str())?;
        match self.status {
            Some(status) => write!(f, " {status}")?,
            None => f.write_str(" -")?,
        }
        write!(f, " {} {} {}", self.attempt, self.hour, self.bucket)
    }
}

/// Why a text is not a tally.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tally looks like: delivered 4.3.1 2 14 5")]
pub struct NotATally;

impl FromStr for Tally {
    type Err = NotATally;

    fn from_str(text: &str) -> Result<Self, NotATally> {
        let parts: Vec<&str> = text.split(' ').collect();
        let [result, status, attempt, hour, bucket] = parts.as_slice() else {
            return Err(NotATally);
        };
        let status = match *status {
            "-" => None,
            status => Some(status.parse().map_err(|_| NotATally)?),
        };
        Ok(Self {
            result: TallyResult::ALL
                .into_iter()
                .find(|known| known.as_str() == *result)
                .ok_or(NotATally)?,
            status,
            attempt: attempt.parse().map_err(|_| NotATally)?,
            hour: hour
                .parse()
                .ok()
                .filter(|hour| *hour < 24)
                .ok_or(NotATally)?,
            bucket: bucket
                .parse()
                .ok()
                .filter(|bucket| *bucket <= BUCKET_MAX)
                .ok_or(NotATally)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_reads_back_as_it_was_written() {
        let created = Timestamp::parse("2026-11-21T09:30:00Z").unwrap();
        let status = Some("4.3.1".parse().unwrap());
        for (result, status) in TallyResult::ALL
            .into_iter()
            .zip([status, None].into_iter().cycle())
        {
            let tally = Tally::new(
                result,
                status,
                2,
                created,
                created.plus(Duration::from_secs(86_400)),
            );
            assert_eq!((tally.hour, tally.bucket), (9, 5));
            assert_eq!(tally.to_string().parse(), Ok(tally));
        }
    }

    #[test]
    fn buckets_are_powers_of_two_hours() {
        let hours = |n: u64| Duration::from_secs(n * 3_600);
        for (waited, expected) in [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 2),
            (24, 5),
            (1_024, 10),
            (100_000, 10),
        ] {
            assert_eq!(bucket(hours(waited)), expected, "{waited} h");
        }
    }
}
