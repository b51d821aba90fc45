//! What a process reports about Redis: how its calls went, what Redis has lost, and what a repair
//! has corrected.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::catalog::register;

/// The upper limits of the buckets for the duration of calls, in seconds.
const BUCKETS: [f64; 11] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0,
];

/// The labels of a metric, as pairs of name and value.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// What a repair may find and correct, apart from jobs in no set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// A destination with due jobs that no worker would have visited.
    Destination,
    /// A destination with a wrong count of attempts under way.
    Count,
    /// What was left of a lease that is over.
    Lease,
}

/// The metrics of a process that are about Redis.
pub struct RedisMetrics {
    round_trips: Counter,
    call_duration: Family<Labels<1>, Histogram, fn() -> Histogram>,
    failures: Family<Labels<1>, Counter>,
    durable_writes: Family<Labels<2>, Counter>,
    server_changes: Counter,
    lost_writes: Counter,
    recovered_jobs: Counter,
    repairs: Family<Labels<1>, Counter>,
}

impl Repair {
    /// All kinds of corrections.
    const ALL: [Self; 3] = [Self::Destination, Self::Count, Self::Lease];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Destination => "destination",
            Self::Count => "count",
            Self::Lease => "lease",
        }
    }
}

impl RedisMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            round_trips: Counter::default(),
            call_duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            failures: Family::default(),
            durable_writes: Family::default(),
            server_changes: Counter::default(),
            lost_writes: Counter::default(),
            recovered_jobs: Counter::default(),
            repairs: Family::default(),
        };
        // These counters begin at 0, so that Prometheus sees the first repair as an increase.
        for kind in Repair::ALL {
            metrics.repaired(kind, 0);
        }
        macro_rules! register {
            ($($name:literal $field:ident)+) => {
                $(register(registry, $name, metrics.$field.clone());)+
            };
        }
        register! {
            "redeliver_redis_round_trips_total" round_trips
            "redeliver_redis_call_duration_seconds" call_duration
            "redeliver_redis_failures_total" failures
            "redeliver_durable_writes_total" durable_writes
            "redeliver_redis_server_changes_total" server_changes
            "redeliver_lost_writes_total" lost_writes
            "redeliver_recovered_jobs_total" recovered_jobs
            "redeliver_repairs_total" repairs
        }
        metrics
    }

    /// Records round trips to Redis. Commands that are sent together are one round trip.
    pub fn round_trips(&self, count: u64) {
        self.round_trips.inc_by(count);
    }

    /// Records how long a call of a script took, also if it failed.
    pub fn called(&self, script: &'static str, took: Duration) {
        self.call_duration
            .get_or_create(&[("script", script)])
            .observe(took.as_secs_f64());
    }

    /// Records a call that failed.
    pub fn failed(&self, kind: &'static str) {
        self.failures.get_or_create(&[("kind", kind)]).inc();
    }

    /// Records a write that had to reach this durability, and whether it is known to have reached
    /// it.
    pub fn durable_write(&self, durability: &'static str, is_reached: bool) {
        let result = if is_reached { "reached" } else { "missed" };
        self.durable_writes
            .get_or_create(&[("durability", durability), ("result", result)])
            .inc();
    }

    /// Records that this process was the first to notice that a shard has another server, or that
    /// its server was restarted.
    pub fn server_changed(&self) {
        self.server_changes.inc();
    }

    /// Records that this process was the first to notice a loss of writes.
    pub fn lost_writes(&self) {
        self.lost_writes.inc();
    }

    /// Records jobs that a repair found in no set.
    pub fn recovered(&self, jobs: u64) {
        self.recovered_jobs.inc_by(jobs);
    }

    /// Records how many corrections of this kind a repair has made.
    pub fn repaired(&self, kind: Repair, count: u64) {
        self.repairs
            .get_or_create(&[("kind", kind.as_str())])
            .inc_by(count);
    }
}
