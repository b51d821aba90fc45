//! The figures of the whole fleet. One scheduler reads them from Redis, and all schedulers report
//! them.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

use super::catalog::{Kind, described, register};

/// The labels of a figure, as pairs of name and value. A figure has one label or none.
type Labels = Vec<(&'static str, &'static str)>;

/// The figures of one metric. They are absent until they are set.
#[derive(Clone, Debug)]
enum Figures {
    /// They grow and shrink.
    Gauges(Family<Labels, Gauge<f64, AtomicU64>>),
    /// They only grow. Redis counts them, so they are set like gauges.
    Counters(Family<Labels, Counter<f64, AtomicU64>>),
}

/// The figures of the fleet at one time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FleetReading {
    /// When it was read, in ms since the Unix epoch, by the clock of Redis.
    pub read_at_ms: i64,
    /// How long reading took, in ms.
    pub took_ms: u64,
    /// Jobs that are due and wait for a claim.
    pub due: u64,
    /// How long the first of them has been due, in ms.
    pub oldest_due_ms: u64,
    /// Jobs that are due within 1 h, but not now.
    pub within_1h: u64,
    /// Jobs that are due within 24 h, but not within 1 h.
    pub within_24h: u64,
    /// Jobs that are due within 7 days, but not within 24 h.
    pub within_7d: u64,
    /// Jobs that are due after 7 days.
    pub later: u64,
    /// Attempts under way.
    pub in_flight: u64,
    /// The windows of all destinations with work, added up.
    pub window: u64,
    /// Destinations with work, with a hold, or with a breaker that is not closed.
    pub destinations: u64,
    /// Destinations whose breaker is open.
    pub open: u64,
    /// Destinations whose breaker is half open.
    pub half_open: u64,
    /// Destinations that an operator holds.
    pub held: u64,
    /// Jobs in quarantine.
    pub quarantined: u64,
    /// Workers with a recent heartbeat.
    pub workers: u64,
    /// All jobs, including those with an attempt under way or in quarantine.
    pub jobs: u64,
    /// Memory that Redis uses, in bytes. `None` if a server did not report it.
    pub memory_used: Option<u64>,
    /// The limit of that memory, in bytes. `None` if a server has no limit.
    pub memory_max: Option<u64>,
    /// Keys that Redis has evicted since it was started. `None` if a server did not report it.
    pub evicted: Option<u64>,
}

/// The figures of the fleet, as a process reports them.
#[derive(Debug, Default)]
pub(super) struct FleetGauges(Vec<(&'static str, Figures)>);

impl Figures {
    fn new(registry: &mut Registry, name: &str) -> Self {
        if described(name).kind == Kind::Counter {
            let counters = Family::default();
            register(registry, name, counters.clone());
            return Self::Counters(counters);
        }
        let gauges = Family::default();
        register(registry, name, gauges.clone());
        Self::Gauges(gauges)
    }

    fn set(&self, labels: &Labels, value: f64) {
        match self {
            Self::Gauges(gauges) => {
                gauges.get_or_create(labels).set(value);
            }
            Self::Counters(counters) => {
                let counter = counters.get_or_create(labels);
                counter.inner().store(value.to_bits(), Ordering::Relaxed);
            }
        }
    }

    fn clear(&self) {
        match self {
            Self::Gauges(gauges) => gauges.clear(),
            Self::Counters(counters) => counters.clear(),
        }
    }
}

impl FleetGauges {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let mut gauges = Self::default();
        for (name, ..) in values(&FleetReading::default()) {
            if gauges.of(name).is_none() {
                gauges.0.push((name, Figures::new(registry, name)));
            }
        }
        gauges
    }

    /// Sets all figures to the values of `reading`. A figure without a value becomes absent.
    /// Without a reading, all figures become absent.
    pub(super) fn set(&self, reading: Option<&FleetReading>) {
        let Some(reading) = reading else {
            self.0.iter().for_each(|(_, figures)| figures.clear());
            return;
        };
        for (name, labels, value) in values(reading) {
            let Some(figures) = self.of(name) else {
                continue;
            };
            match value {
                Some(value) => figures.set(&labels, value),
                None => figures.clear(),
            }
        }
    }

    fn of(&self, name: &str) -> Option<&Figures> {
        self.0
            .iter()
            .find_map(|(known, figures)| (*known == name).then_some(figures))
    }
}

/// Returns all figures, each with its name, its labels and its value, if it has one.
fn values(reading: &FleetReading) -> Vec<(&'static str, Labels, Option<f64>)> {
    let number = |count: u64| Some(count as f64);
    let seconds = |ms: u64| Some(ms as f64 / 1_000.0);
    let plain = |name, value| (name, Labels::new(), value);
    let labelled = |name, label, word, count| (name, vec![(label, word)], number(count));
    let pending = |horizon, count| labelled("redeliver_pending_jobs", "horizon", horizon, count);
    let breakers = |state, count| labelled("redeliver_breakers", "state", state, count);
    let per_job = reading
        .memory_used
        .filter(|_| reading.jobs > 0)
        .map(|used| used as f64 / reading.jobs as f64);
    vec![
        plain("redeliver_due_jobs", number(reading.due)),
        plain(
            "redeliver_oldest_due_age_seconds",
            seconds(reading.oldest_due_ms),
        ),
        pending("now", reading.due),
        pending("1h", reading.within_1h),
        pending("24h", reading.within_24h),
        pending("7d", reading.within_7d),
        pending("later", reading.later),
        plain("redeliver_in_flight_attempts", number(reading.in_flight)),
        plain("redeliver_window_attempts", number(reading.window)),
        plain("redeliver_destinations", number(reading.destinations)),
        breakers("open", reading.open),
        breakers("half_open", reading.half_open),
        plain("redeliver_held_destinations", number(reading.held)),
        plain("redeliver_quarantined_jobs", number(reading.quarantined)),
        plain("redeliver_workers", number(reading.workers)),
        plain(
            "redeliver_redis_memory_used_bytes",
            reading.memory_used.and_then(number),
        ),
        plain(
            "redeliver_redis_memory_max_bytes",
            reading.memory_max.and_then(number),
        ),
        plain("redeliver_redis_memory_per_job_bytes", per_job),
        plain(
            "redeliver_redis_evicted_keys_total",
            reading.evicted.and_then(number),
        ),
        plain(
            "redeliver_fleet_read_timestamp_seconds",
            Some(reading.read_at_ms as f64 / 1_000.0),
        ),
    ]
}
