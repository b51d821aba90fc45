//! The figures of the whole fleet, for metrics. One process reads them and keeps them in Redis for
//! the others. Reading looks at destinations and not at jobs, and at a bounded number of them per
//! second.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use deadpool_redis::redis::{FromRedisValue, Pipeline, Value, from_redis_value, pipe};
use domain::clock::Timestamp;
use domain::destination::Destination;
use telemetry::metrics::fleet::FleetReading;
use tokio::time::sleep;

use crate::destination_controls::{BreakerState, PaceReport, Waiting, read_pace};
use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::{self, Text};
use crate::scripts::ms;
use crate::workers::WorkerId;

/// How many destinations are read together.
const PAGE: usize = 250;

/// The pause after a full page. With it, at most 5,000 destinations are read per second, however
/// many there are.
const PAUSE: Duration = Duration::from_millis(50);

/// How many operations read one destination on the agenda.
const OPERATIONS: usize = 7;

/// How many leases of each shard are read to find destinations with attempts under way.
const LEASES_READ: usize = 1_000;

const HOUR_MS: i64 = 3_600_000;

/// The ends of the horizons of pending jobs, counted from now, in ms.
const HORIZONS_MS: [i64; 4] = [0, HOUR_MS, 24 * HOUR_MS, 7 * 24 * HOUR_MS];

impl Store {
    /// Reads the figures of the fleet. `silent_max` is how long a live worker may send no
    /// heartbeat.
    ///
    /// Takes 7 operations per destination with work, at most 5,000 such destinations per second; 7
    /// more, in a call of its own, if several accounts share the destination, and 6 for each of
    /// them. A destination whose turn changes meanwhile may count twice, or not. Changes nothing.
    pub async fn read_fleet(&self, silent_max: Duration) -> Result<FleetReading, StoreError> {
        let began = Instant::now();
        let now = self.clock_of(0).await?;
        let mut reading = FleetReading::default();
        let counts: Vec<(u64, u64)> = self
            .on_each_shard(|keys, commands| {
                commands.hlen(keys.jobs()).zcard(keys.quarantine());
            })
            .await?;
        for (jobs, quarantined) in counts {
            reading.jobs += jobs;
            reading.quarantined += quarantined;
        }
        for shard in 0..self.shards() {
            self.read_work(shard, now, &mut reading).await?;
            self.read_trouble(shard, now, &mut reading).await?;
        }
        self.read_under_way(&mut reading).await?;
        reading.workers = self.live_workers(silent_max).await?;
        let servers = self.connections.server_figures().await?;
        reading.memory_used = servers.memory_used;
        reading.memory_max = servers.memory_max;
        reading.evicted = servers.evicted;
        let read_at = SystemTime::now().duration_since(UNIX_EPOCH);
        reading.read_at_ms = ms(read_at.unwrap_or_default())
            .try_into()
            .unwrap_or(i64::MAX);
        reading.took_ms = ms(began.elapsed());
        Ok(reading)
    }

    /// Keeps the figures in Redis, for as long as `keep`.
    pub async fn keep_fleet(
        &self,
        reading: &FleetReading,
        keep: Duration,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(reading).expect("numbers always serialize");
        let mut set = pipe();
        set.cmd("SET")
            .arg(self.keys.fleet())
            .arg(text)
            .arg("PX")
            .arg(ms(keep).max(1))
            .ignore();
        self.connections.pipeline(&set).await
    }

    /// Returns the figures that are kept. None if there are none, or if another version wrote them.
    pub async fn kept_fleet(&self) -> Result<Option<FleetReading>, StoreError> {
        let (text,): (Option<Text>,) = self
            .connections
            .pipeline(pipe().get(self.keys.fleet()))
            .await?;
        Ok(text.and_then(|Text(text)| serde_json::from_str(&text).ok()))
    }

    /// Adds the destinations of a shard that have work.
    async fn read_work(
        &self,
        shard: u16,
        now: Timestamp,
        reading: &mut FleetReading,
    ) -> Result<(), StoreError> {
        let keys = self.keys.shard(shard);
        let mut names = self.names(keys.agenda(), 0).await?;
        let mut seen = 0;
        while !names.is_empty() {
            let mut ask = pipe();
            for name in &names {
                let due = keys.due(name);
                ask.hgetall(keys.pace(name)).zcard(&due);
                for horizon in HORIZONS_MS {
                    ask.zcount(&due, "-inf", now.ms() + horizon);
                }
                ask.zrange_withscores(&due, 0, 0);
            }
            let answers: Vec<Value> = self.connections.pipeline(&ask).await?;
            for (name, answers) in names.iter().zip(answers.chunks_exact(OPERATIONS)) {
                let (destination, pace) = pace(name, &answers[0])?;
                let (waiting, until) = if pace.is_shared {
                    let horizons = HORIZONS_MS.map(|horizon| now.ms() + horizon);
                    self.waiting_until(&destination, &horizons).await?
                } else {
                    read_waiting(&answers[1..])?
                };
                add_waiting(waiting, &until, now, reading);
                if has_work(waiting.jobs, &pace) {
                    reading.destinations += 1;
                    reading.in_flight += u64::from(pace.in_flight);
                    reading.window += u64::from(self.window_in_force(&destination, &pace));
                }
            }
            seen += names.len();
            names = self.next_names(keys.agenda(), seen, names.len()).await?;
        }
        Ok(())
    }

    /// Adds the destinations that only have attempts under way, which the agenda does not have.
    async fn read_under_way(&self, reading: &mut FleetReading) -> Result<(), StoreError> {
        let mut by_shard: Vec<Vec<String>> = vec![Vec::new(); usize::from(self.shards())];
        for name in self.names_under_way(LEASES_READ).await? {
            let shard = Destination::named(name.as_str()).shard(self.shards());
            by_shard[usize::from(shard)].push(name);
        }
        for (shard, names) in (0..self.shards()).zip(by_shard) {
            let keys = self.keys.shard(shard);
            for names in names.chunks(PAGE) {
                let mut ask = pipe();
                for name in names {
                    ask.hgetall(keys.pace(name)).zscore(keys.agenda(), name);
                }
                let answers: Vec<Value> = self.connections.pipeline(&ask).await?;
                for (name, answers) in names.iter().zip(answers.chunks_exact(2)) {
                    let visited: Option<f64> = answer(&answers[1])?;
                    let (destination, pace) = pace(name, &answers[0])?;
                    if visited.is_none() && pace.in_flight > 0 {
                        reading.destinations += 1;
                        reading.in_flight += u64::from(pace.in_flight);
                        reading.window += u64::from(self.window_in_force(&destination, &pace));
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds the destinations of a shard that are held, or whose breaker is not closed. Those with
    /// work are already counted as destinations.
    async fn read_trouble(
        &self,
        shard: u16,
        now: Timestamp,
        reading: &mut FleetReading,
    ) -> Result<(), StoreError> {
        let keys = self.keys.shard(shard);
        let trouble = keys.trouble();
        let mut names = self.names(&trouble, 0).await?;
        let mut seen = 0;
        while !names.is_empty() {
            let mut ask = pipe();
            for name in &names {
                ask.hgetall(keys.pace(name)).zcard(keys.due(name));
            }
            let answers: Vec<Value> = self.connections.pipeline(&ask).await?;
            for (name, answers) in names.iter().zip(answers.chunks_exact(2)) {
                let (_, pace) = pace(name, &answers[0])?;
                let is_held = pace.hold_at(now).is_some();
                let is_in_trouble = is_held || !matches!(pace.breaker, BreakerState::Closed);
                let is_new = is_in_trouble && !has_work(answer(&answers[1])?, &pace);
                reading.destinations += u64::from(is_new);
                reading.held += u64::from(is_held);
                match pace.breaker {
                    BreakerState::Closed => {}
                    BreakerState::Open { .. } => reading.open += 1,
                    BreakerState::HalfOpen { .. } => reading.half_open += 1,
                }
            }
            seen += names.len();
            names = self.next_names(&trouble, seen, names.len()).await?;
        }
        Ok(())
    }

    /// Returns the next page of a set after one with `found` destinations; none if that was the
    /// last.
    async fn next_names(
        &self,
        key: &str,
        seen: usize,
        found: usize,
    ) -> Result<Vec<String>, StoreError> {
        if found < PAGE {
            return Ok(Vec::new());
        }
        sleep(PAUSE).await;
        self.names(key, seen).await
    }

    async fn names(&self, key: &str, from: usize) -> Result<Vec<String>, StoreError> {
        let place = |n: usize| isize::try_from(n).unwrap_or(isize::MAX);
        let mut ask = Pipeline::new();
        ask.zrange(key, place(from), place(from + PAGE - 1));
        let (names,): (Vec<Text>,) = self.connections.pipeline(&ask).await?;
        Ok(names.into_iter().map(|Text(name)| name).collect())
    }

    /// Returns how many workers have sent a heartbeat within `silent_max`.
    pub async fn live_workers(&self, silent_max: Duration) -> Result<u64, StoreError> {
        let ((seconds, _),): ((i64, i64),) = self.connections.pipeline(pipe().cmd("TIME")).await?;
        let silent_ms: i64 = ms(silent_max).try_into().unwrap_or(i64::MAX);
        let oldest = (seconds * 1_000).saturating_sub(silent_ms);
        let workers: Vec<(WorkerId, i64)> = self.workers().await?;
        let live = workers.iter().filter(|(_, at)| *at >= oldest).count();
        Ok(live as u64)
    }
}

/// Reads what waits at a destination, and how many of the jobs are due until each horizon.
fn read_waiting(answers: &[Value]) -> Result<(Waiting, Vec<u64>), StoreError> {
    let (first, horizons) = answers[1..].split_last().expect("there are six answers");
    let until: Result<_, _> = horizons.iter().map(answer).collect();
    let first: Vec<(Text, f64)> = answer(first)?;
    let next_due = first
        .first()
        .map(|(_, due)| Timestamp::from_ms(*due as i64));
    let jobs = answer(&answers[0])?;
    Ok((Waiting { jobs, next_due }, until?))
}

fn add_waiting(waiting: Waiting, until: &[u64], now: Timestamp, reading: &mut FleetReading) {
    let mut before = 0;
    let mut of_horizon = [0; 4];
    for (count, until) in of_horizon.iter_mut().zip(until) {
        *count = until.saturating_sub(before);
        before = *until;
    }
    let [due, within_1h, within_24h, within_7d] = of_horizon;
    reading.due += due;
    reading.within_1h += within_1h;
    reading.within_24h += within_24h;
    reading.within_7d += within_7d;
    reading.later += waiting.jobs.saturating_sub(before);
    if let Some(due) = waiting.next_due {
        reading.oldest_due_ms = reading.oldest_due_ms.max(ms(now.since(due)));
    }
}

/// Whether a destination with this many waiting jobs has work.
fn has_work(waiting: u64, pace: &PaceReport) -> bool {
    waiting > 0 || pace.in_flight > 0
}

fn answer<T: FromRedisValue>(value: &Value) -> Result<T, StoreError> {
    from_redis_value(value.clone()).map_err(|why| StoreError::Refused(why.to_string()))
}

fn pace(name: &str, value: &Value) -> Result<(Destination, PaceReport), StoreError> {
    let destination = Destination::named(name);
    let fields: HashMap<Text, Text> = answer(value)?;
    let pace = read_pace(&destination, &raw::texts(fields)).unwrap_or_else(|why| {
        tracing::warn!(%why, "a destination is left out of the metrics");
        PaceReport::default()
    });
    Ok((destination, pace))
}
