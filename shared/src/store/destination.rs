//! Destinations: what an operator asks and says of one. Holding it, letting it go, giving it other limits, and its pace
//! as it is now.

use std::collections::HashMap;
use std::str::FromStr;

use deadpool_redis::redis::pipe;

use super::scripts::{HOLD, OVERRIDE, UNHOLD};
use super::{Store, StoreError};
use crate::clock::Timestamp;
use crate::pace::PaceLimits;
use crate::placement::Destination;

/// The pace of one destination as Redis has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PaceReport {
    /// Attempts under way.
    pub in_flight: u32,
    /// How many there may be, by what came back; none where nothing has moved it yet. Its whole part counts.
    pub window: Option<f64>,
    /// Attempts that were saved up, and when they were counted; none where no rate was asked for yet.
    pub tokens: Option<(f64, Timestamp)>,
    /// Whether it gets attempts.
    pub breaker: BreakerState,
    /// When somebody there last got through.
    pub delivered: Option<Timestamp>,
    /// Its limits from the configuration, where it has its own.
    pub limits: Option<PaceLimits>,
    /// Its limits from an operator, which win.
    pub override_limits: Option<PaceLimits>,
    /// Who holds it, where somebody does or did.
    pub hold: Option<Hold>,
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Attempts go out.
    #[default]
    Closed,
    /// No attempt goes out until then; after that, one.
    Open {
        /// When one may.
        until: Timestamp,
        /// How often in a row it has opened.
        times: u32,
    },
    /// One attempt is out, and the others wait for what it brings.
    HalfOpen {
        /// How often in a row it has opened.
        times: u32,
    },
}

/// An operator's hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Until when; none is until it is released. One that is over holds nobody.
    pub until: Option<Timestamp>,
    /// What for.
    pub reason: String,
}

impl Store {
    /// Keeps attempts from a destination until an instant, or until [`Store::unhold`]. What is under way goes on. A second
    /// hold takes the place of the first.
    pub async fn hold(
        &self,
        destination: &Destination,
        until: Option<Timestamp>,
        reason: &str,
    ) -> Result<(), StoreError> {
        let mut call = self.call(&HOLD, destination.shard(self.shards()));
        let reason = serde_json::Value::from(reason).to_string();
        call.arg(destination.as_str()).arg(until.map_or(-1, Timestamp::ms)).arg(reason);
        let _: Vec<i64> = self.connections.script(&call).await?;
        Ok(())
    }

    /// Lets attempts through again at once. Whether the destination was held.
    pub async fn unhold(&self, destination: &Destination) -> Result<bool, StoreError> {
        let mut call = self.call(&UNHOLD, destination.shard(self.shards()));
        call.arg(destination.as_str());
        let (_, held): (i64, u8) = self.connections.script(&call).await?;
        Ok(held == 1)
    }

    /// Gives a destination other limits than the configuration has, at once; none takes them back.
    pub async fn override_limits(
        &self,
        destination: &Destination,
        limits: Option<PaceLimits>,
    ) -> Result<(), StoreError> {
        let mut call = self.call(&OVERRIDE, destination.shard(self.shards()));
        call.arg(destination.as_str()).arg(limits.map(|limits| limits.to_string()).unwrap_or_default());
        let _: Vec<i64> = self.connections.script(&call).await?;
        Ok(())
    }

    /// The pace of a destination as it is now. One that nobody has heard of has the pace that all begin with.
    pub async fn pace(&self, destination: &Destination) -> Result<PaceReport, StoreError> {
        let key = self.keys.shard(destination.shard(self.shards())).pace(destination.as_str());
        let (fields,): (HashMap<String, String>,) = self.connections.pipeline(pipe().hgetall(key)).await?;
        read_pace(&fields).ok_or_else(|| StoreError::Refused(format!("the pace of {destination} is not understood")))
    }
}

fn read_pace(fields: &HashMap<String, String>) -> Option<PaceReport> {
    let field = |name: &str| fields.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let read = |name: &str| field(name).map(|text| text.split(' ').collect::<Vec<_>>());
    Some(PaceReport {
        in_flight: parse(field("in_flight").unwrap_or("0"))?,
        window: optional(field("window"), parse)?,
        tokens: optional(read("tokens"), |parts| match parts.as_slice() {
            [saved, at] => Some((parse(saved)?, instant(at)?)),
            _ => None,
        })?,
        breaker: optional(read("breaker"), |parts| match parts.as_slice() {
            ["open", until, times] => Some(BreakerState::Open { until: instant(until)?, times: parse(times)? }),
            ["half_open", _, times] => Some(BreakerState::HalfOpen { times: parse(times)? }),
            _ => None,
        })?
        .unwrap_or_default(),
        delivered: optional(field("delivered"), instant)?,
        limits: optional(field("limits"), |text| text.parse().ok())?,
        override_limits: optional(field("override"), |text| text.parse().ok())?,
        hold: optional(field("hold"), |until| {
            let until = if until == "-1" { None } else { Some(instant(until)?) };
            Some(Hold { until, reason: fields.get("hold_reason").cloned().unwrap_or_default() })
        })?,
    })
}

fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn instant(text: &str) -> Option<Timestamp> {
    parse(text).map(Timestamp::from_ms)
}

/// What is absent is no fault; what is there must be read.
fn optional<T, R>(value: Option<T>, read: impl FnOnce(T) -> Option<R>) -> Option<Option<R>> {
    value.map_or(Some(None), |value| read(value).map(Some))
}
