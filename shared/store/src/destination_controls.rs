//! What an operator can do with one destination: hold it, release it, give it other limits, and see
//! its current pace.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use deadpool_redis::redis::pipe;
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::pace::{Pace, PaceLimits, limits_for};

use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::{self, Text};
use crate::scripts::{HOLD, OVERRIDE, UNHOLD, WAITING};

/// Rounding tolerance: a balance within this of a whole token counts as one (see `pace.lua`).
const TOKEN_ROUNDING: f64 = 1e-6;

/// How long a destination stays silent without another report: see `pace.lua`.
const SILENT: Duration = Duration::from_secs(5);

/// How far this process's clock may be behind those of the Redis servers, whose clocks a pace is
/// written by. An instant further ahead was stored before a clock was set back.
const CLOCKS_APART: Duration = Duration::from_secs(60);

/// The pace of one destination as Redis has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PaceReport {
    /// Attempts under way.
    pub in_flight: u32,
    /// How many attempts there may be, by the results so far; none if no result has changed it yet.
    /// Only its whole part counts.
    pub window: Option<f64>,
    /// How many attempts were saved up, and when they were counted; none if no rate was applied
    /// yet.
    pub tokens: Option<(f64, Timestamp)>,
    /// The state of its breaker.
    pub breaker: BreakerState,
    /// When a message was last delivered there.
    pub delivered: Option<Timestamp>,
    /// When a host there last answered an attempt.
    pub answered: Option<Timestamp>,
    /// Until when it counts as silent: an attempt there waits for an answer, and no other attempt
    /// got one meanwhile.
    pub silent_until: Option<Timestamp>,
    /// Its limits from the configuration, if it has its own.
    pub limits: Option<PaceLimits>,
    /// Its limits from an operator, which take precedence.
    pub override_limits: Option<PaceLimits>,
    /// The operator's hold, if there is or was one.
    pub hold: Option<Hold>,
    /// Whether jobs of several accounts wait there.
    pub is_shared: bool,
}

/// The state of a breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Attempts go out.
    #[default]
    Closed,
    /// No attempt goes out until this instant; after that, one.
    Open {
        /// When one attempt may go out.
        until: Timestamp,
        /// How many times in a row it has opened.
        times: u32,
    },
    /// One attempt is out, and the others wait for its result.
    HalfOpen {
        /// How many times in a row it has opened.
        times: u32,
    },
}

/// An operator's hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Until when; none means until it is released. A hold that is over holds nothing up.
    pub until: Option<Timestamp>,
    /// The operator's reason.
    pub reason: String,
}

/// The source of the limits that hold for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitsFrom {
    /// The `[pace]` section: nothing else sets its limits.
    Default,
    /// A `[[destination]]` section of the configuration.
    Configuration,
    /// An operator.
    Override,
}

impl LimitsFrom {
    /// Returns the word used in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Configuration => "configuration",
            Self::Override => "override",
        }
    }
}

/// The jobs that wait at a destination: neither under way nor in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// How many jobs.
    pub jobs: u64,
    /// When the first of them is due.
    pub next_due: Option<Timestamp>,
}

impl PaceReport {
    /// Returns the hold that keeps attempts back at `now`, if any.
    pub fn hold_at(&self, now: Timestamp) -> Option<&Hold> {
        self.hold
            .as_ref()
            .filter(|hold| hold.until.is_none_or(|until| until > now))
    }

    /// Returns how many attempts are saved up by `now` under these limits; none if there is no
    /// rate.
    pub fn tokens_at(&self, limits: PaceLimits, now: Timestamp) -> Option<f64> {
        let saved = self
            .tokens
            .map(|(saved, at)| saved + now.since(at).as_secs_f64() * limits.rate);
        (limits.rate > 0.0).then(|| saved.map_or(limits.burst, |saved| saved.min(limits.burst)))
    }

    /// Returns when the next attempt may go out by its rate; none if there is no rate.
    pub fn next_token(&self, limits: PaceLimits, now: Timestamp) -> Option<Timestamp> {
        let missing = (1.0 - TOKEN_ROUNDING - self.tokens_at(limits, now)?).max(0.0);
        Some(now.plus(Duration::from_millis(
            (missing * 1_000.0 / limits.rate).ceil() as u64,
        )))
    }

    /// Whether it counts as silent at `now`. An instant further ahead than [`SILENT`] was stored
    /// before the clock was set back, and means nothing.
    fn is_silent_at(&self, now: Timestamp) -> bool {
        let latest = now.plus(SILENT + CLOCKS_APART);
        self.silent_until
            .is_some_and(|until| until > now && until <= latest)
    }

    /// Whether a host there has answered within this time before `now`. An answer later than `now`
    /// was stored before the clock was set back, and means nothing.
    fn has_answered_within(&self, within: Duration, now: Timestamp) -> bool {
        self.answered
            .is_some_and(|at| at <= now.plus(CLOCKS_APART) && now.since(at) < within)
    }
}

impl Store {
    /// Keeps attempts from a destination until an instant, or until [`Store::unhold`]. Attempts
    /// that are under way continue. A second hold replaces the first.
    pub async fn hold(
        &self,
        destination: &Destination,
        until: Option<Timestamp>,
        reason: &str,
    ) -> Result<(), StoreError> {
        let mut call = self.call(&HOLD, destination.shard(self.shards()));
        let reason = serde_json::Value::from(reason).to_string();
        call.arg("destination", destination.as_str())
            .arg("hold_until", until.map_or(-1, Timestamp::ms))
            .arg("reason", reason)
            .arg("by", self.by());
        let _: Vec<i64> = self.connections.script(&call).await?;
        Ok(())
    }

    /// Lets attempts through again at once. Returns whether the destination was held.
    pub async fn unhold(&self, destination: &Destination) -> Result<bool, StoreError> {
        let mut call = self.call(&UNHOLD, destination.shard(self.shards()));
        call.arg("destination", destination.as_str())
            .arg("by", self.by());
        let (_, held): (i64, u8) = self.connections.script(&call).await?;
        Ok(held == 1)
    }

    /// Gives a destination other limits than the configuration has, at once; none removes them.
    pub async fn override_limits(
        &self,
        destination: &Destination,
        limits: Option<PaceLimits>,
    ) -> Result<(), StoreError> {
        let mut call = self.call(&OVERRIDE, destination.shard(self.shards()));
        let limits = limits.map(|limits| limits.to_string());
        call.arg("destination", destination.as_str())
            .arg("limits", limits.unwrap_or_default())
            .arg("by", self.by());
        let _: Vec<i64> = self.connections.script(&call).await?;
        Ok(())
    }

    /// Returns the current pace of a destination. An unknown destination has the pace that all
    /// start with.
    pub async fn pace(&self, destination: &Destination) -> Result<PaceReport, StoreError> {
        let key = self
            .keys
            .shard(destination.shard(self.shards()))
            .pace(destination.as_str());
        let (fields,): (HashMap<Text, Text>,) =
            self.connections.pipeline(pipe().hgetall(key)).await?;
        read_pace(destination, &raw::texts(fields))
    }

    /// Returns the limits that hold for a destination with this pace, and their source.
    pub fn limits_in_force(
        &self,
        destination: &Destination,
        pace: &PaceReport,
    ) -> (PaceLimits, LimitsFrom) {
        match pace.override_limits {
            Some(limits) => (limits, LimitsFrom::Override),
            None => self.limits_without_override(destination, pace),
        }
    }

    /// Returns the limits that would hold without an override. If no job was scheduled at the
    /// destination yet, they are those that it will get from the rules of this store.
    pub fn limits_without_override(
        &self,
        destination: &Destination,
        pace: &PaceReport,
    ) -> (PaceLimits, LimitsFrom) {
        match pace
            .limits
            .or_else(|| limits_for(&self.rules, destination.as_str()))
        {
            Some(limits) => (limits, LimitsFrom::Configuration),
            None => (self.limits.pace.limits, LimitsFrom::Default),
        }
    }

    /// Returns how many attempts may be under way at once at a destination with this pace.
    pub fn window_in_force(&self, destination: &Destination, pace: &PaceReport) -> u32 {
        let (limits, _) = self.limits_in_force(destination, pace);
        let Pace {
            window_new,
            answered_within,
            ..
        } = self.limits.pace;
        let now = self.clock.now();
        let moved = pace
            .window
            .unwrap_or(f64::from(window_new))
            .min(f64::from(limits.window)) as u32;
        if pace.is_silent_at(now) {
            return moved.min(1);
        }
        if pace.has_answered_within(answered_within, now) {
            moved
        } else {
            moved.min(window_new)
        }
    }

    /// Returns what waits at a destination.
    pub async fn waiting(&self, destination: &Destination) -> Result<Waiting, StoreError> {
        Ok(self.waiting_until(destination, &[]).await?.0)
    }

    /// Returns what waits at a destination, and how many of the jobs are due until each of these
    /// instants, given in ms.
    pub(crate) async fn waiting_until(
        &self,
        destination: &Destination,
        instants: &[i64],
    ) -> Result<(Waiting, Vec<u64>), StoreError> {
        let mut call = self.call(&WAITING, destination.shard(self.shards()));
        call.arg("destination", destination.as_str());
        for instant in instants {
            call.arg("until_ms", *instant);
        }
        let (_, jobs, first, until): (i64, u64, Option<f64>, Vec<u64>) =
            self.connections.script(&call).await?;
        let next_due = first.map(|due| Timestamp::from_ms(due as i64));
        Ok((Waiting { jobs, next_due }, until))
    }

    /// Whether Redis has any data for this name: jobs that wait, or a pace.
    pub async fn knows(&self, destination: &Destination) -> Result<bool, StoreError> {
        let keys = self.keys.shard(destination.shard(self.shards()));
        let keys = [
            keys.due(destination.as_str()),
            keys.pace(destination.as_str()),
        ];
        let (found,): (u64,) = self.connections.pipeline(pipe().exists(&keys)).await?;
        Ok(found > 0)
    }
}

/// Reads a destination's pace as `pace.lua` writes it.
pub(crate) fn read_pace(
    destination: &Destination,
    fields: &HashMap<String, String>,
) -> Result<PaceReport, StoreError> {
    read_fields(fields)
        .ok_or_else(|| StoreError::Refused(format!("the pace of {destination} cannot be read")))
}

fn read_fields(fields: &HashMap<String, String>) -> Option<PaceReport> {
    let field = |name: &str| {
        fields
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    };
    let read = |name: &str| field(name).map(|text| text.split(' ').collect::<Vec<_>>());
    Some(PaceReport {
        in_flight: parse(field("in_flight").unwrap_or("0"))?,
        window: optional(field("window"), parse)?,
        tokens: optional(read("tokens"), |parts| match parts.as_slice() {
            [saved, at] => Some((parse(saved)?, instant(at)?)),
            _ => None,
        })?,
        breaker: optional(read("breaker"), |parts| match parts.as_slice() {
            ["open", until, times] => Some(BreakerState::Open {
                until: instant(until)?,
                times: parse(times)?,
            }),
            ["half_open", _, times] => Some(BreakerState::HalfOpen {
                times: parse(times)?,
            }),
            _ => None,
        })?
        .unwrap_or_default(),
        delivered: optional(field("delivered"), instant)?,
        answered: optional(field("answered"), instant)?,
        silent_until: optional(field("silent"), instant)?,
        limits: optional(field("limits"), |text| text.parse().ok())?,
        override_limits: optional(field("override"), |text| text.parse().ok())?,
        hold: optional(field("hold"), |until| {
            let until = if until == "-1" {
                None
            } else {
                Some(instant(until)?)
            };
            Some(Hold {
                until,
                reason: fields.get("hold_reason").cloned().unwrap_or_default(),
            })
        })?,
        is_shared: field("turn").is_some(),
    })
}

fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn instant(text: &str) -> Option<Timestamp> {
    parse(text).map(Timestamp::from_ms)
}

/// A missing value is no error, but a value that is there must be readable.
fn optional<T, R>(value: Option<T>, read: impl FnOnce(T) -> Option<R>) -> Option<Option<R>> {
    value.map_or(Some(None), |value| read(value).map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_from_before_the_clock_was_set_back_are_ignored() {
        let (now, hour) = (
            Timestamp::from_ms(1_800_000_000_000),
            Duration::from_secs(3_600),
        );
        let ms = |ms| Timestamp::from_ms(now.ms() + ms);
        for (answered, silent_until, is_lately, is_silent) in [
            (ms(0), ms(1), true, true),
            (ms(-3_599_999), ms(5_000), true, true),
            (ms(-3_600_000), ms(0), false, false),
            (ms(60_000), ms(65_000), true, true),
            (ms(60_001), ms(65_001), false, false),
        ] {
            let pace = PaceReport {
                answered: Some(answered),
                silent_until: Some(silent_until),
                ..PaceReport::default()
            };
            let found = (pace.has_answered_within(hour, now), pace.is_silent_at(now));
            assert_eq!(found, (is_lately, is_silent), "{answered} {silent_until}");
        }
    }

    #[test]
    fn a_destination_stays_silent_as_long_here_as_in_the_scripts() {
        let script = include_str!("lua/pace.lua");
        assert!(script.contains(&format!("local SILENT_MS = {}\n", SILENT.as_millis())));
    }
}
