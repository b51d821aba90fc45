//! All metrics: name, kind, labels and what each means. docs/reference/metrics.md is made from this
//! table, and every metric is registered by its entry here.

use prometheus_client::registry::{Metric, Registry, Unit};

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the process ends.
    Counter,
    /// It grows and shrinks.
    Gauge,
    /// How many observations were at most this long, by limits.
    Histogram,
}

/// Which processes a metric is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The process that is asked, of any kind.
    Process,
    /// The scheduler that is asked.
    Scheduler,
    /// The worker that is asked.
    Worker,
    /// The whole fleet. Every scheduler reports the same.
    Fleet,
}

/// What is known of a metric without its values.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Its whole name, with its unit, and `_total` if it is a counter.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels, in the order in which they are written.
    pub labels: &'static [&'static str],
    /// Which processes it is about.
    pub about: About,
    /// What it means. It ends without a full stop, which is added.
    pub help: &'static str,
}

const fn metric(
    kind: Kind,
    about: About,
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Described {
    Described {
        name,
        kind,
        labels,
        about,
        help,
    }
}

use About::{Fleet, Process, Scheduler, Worker};
use Kind::{Counter, Gauge, Histogram};

/// All metrics, in the order of the page.
pub const CATALOG: &[Described] = &[
    metric(
        Counter,
        Scheduler,
        "redeliver_bounces_total",
        &["answer", "source", "class"],
        "Bounces by their answer, the way they came in, and the first digit of their status \
         (2, 4, 5, or none)",
    ),
    metric(
        Counter,
        Worker,
        "redeliver_attempts_total",
        &["outcome", "class", "attempt", "sender", "destination"],
        "Attempts that tried a message, by what the sender saw last, the first digit of the status, \
         the number of the attempt (1 to 8, or 9+), the kind of sender, and the destination \
         (a configured provider, one of the busiest, or other)",
    ),
    metric(
        Counter,
        Worker,
        "redeliver_verdicts_total",
        &["verdict"],
        "What the policy decided about the outcome of each message that was tried",
    ),
    metric(
        Histogram,
        Worker,
        "redeliver_attempt_duration_seconds",
        &["sender"],
        "How long attempts that tried a message took, by the kind of sender",
    ),
    metric(
        Histogram,
        Worker,
        "redeliver_phase_duration_seconds",
        &["phase"],
        "How long each phase of an SMTP conversation took",
    ),
    metric(
        Histogram,
        Worker,
        "redeliver_connection_wait_seconds",
        &[],
        "How long messages waited for a connection that was free or could be opened",
    ),
    metric(
        Histogram,
        Worker,
        "redeliver_claim_lateness_seconds",
        &[],
        "How long jobs had been due when they were claimed",
    ),
    metric(
        Counter,
        Worker,
        "redeliver_lapses_total",
        &[],
        "Jobs whose attempt did not end: its lease ran out, or it crashed",
    ),
    metric(
        Counter,
        Worker,
        "redeliver_stale_settlements_total",
        &[],
        "Attempts whose lease had run out before they were settled, so that they are repeated",
    ),
    metric(
        Counter,
        Worker,
        "redeliver_own_trouble_total",
        &["route", "kind"],
        "Messages that were not sent because of trouble of our own, by route",
    ),
    metric(
        Counter,
        Worker,
        "redeliver_content_reads_total",
        &["result"],
        "Content that was read: from the cache (hit), from where it is kept (miss), or not (failed)",
    ),
    metric(
        Gauge,
        Worker,
        "redeliver_worker_permits",
        &["state"],
        "Permits of this worker: used by attempts under way, and free",
    ),
    metric(
        Gauge,
        Worker,
        "redeliver_worker_draining",
        &[],
        "1 if this worker stops and claims nothing more, else 0",
    ),
    metric(
        Counter,
        Process,
        "redeliver_standing_changes_total",
        &["standing"],
        "Addresses that got another standing, by the new standing",
    ),
    metric(
        Counter,
        Process,
        "redeliver_recovered_jobs_total",
        &[],
        "Jobs that a repair found in no set and made due; most were leased, and their lease was \
         gone",
    ),
    metric(
        Counter,
        Process,
        "redeliver_repairs_total",
        &["kind"],
        "What else a repair found and corrected: destinations with due jobs that no worker would \
         have visited (destination) or with a wrong count of attempts under way (count), and what \
         was left of leases that are over (lease)",
    ),
    metric(
        Counter,
        Process,
        "redeliver_lost_writes_total",
        &[],
        "Shards of which this process was the first to notice that Redis had lost writes",
    ),
    metric(
        Counter,
        Process,
        "redeliver_redis_server_changes_total",
        &[],
        "Shards of which this process was the first to notice that their server was restarted, or \
         that another took over",
    ),
    metric(
        Counter,
        Process,
        "redeliver_redis_round_trips_total",
        &[],
        "Round trips to Redis: calls of scripts, and other commands that were sent together",
    ),
    metric(
        Histogram,
        Process,
        "redeliver_redis_call_duration_seconds",
        &["script"],
        "How long calls of scripts took, from sending to the answer",
    ),
    metric(
        Counter,
        Process,
        "redeliver_redis_failures_total",
        &["kind"],
        "Calls to Redis that failed: the error code of the server (oom if it refused them because \
         its memory is full), or another kind of failure",
    ),
    metric(
        Counter,
        Process,
        "redeliver_durable_writes_total",
        &["durability", "result"],
        "Writes that must reach redis.durability (memory, aof or replicas), and whether they are \
         known to have reached it in time: reached or missed",
    ),
    metric(
        Counter,
        Process,
        "redeliver_telemetry_lost_total",
        &["signal", "reason"],
        "Spans and log records that the collector did not get: dropped because too many waited, or \
         failed",
    ),
    metric(
        Counter,
        Scheduler,
        "redeliver_upkeep_runs_total",
        &["task", "result"],
        "Runs of upkeep tasks by this process",
    ),
    metric(
        Gauge,
        Scheduler,
        "redeliver_upkeep_last_success_timestamp_seconds",
        &["task"],
        "When this process last ran an upkeep task with success",
    ),
    metric(
        Counter,
        Scheduler,
        "redeliver_failed_sign_ins_total",
        &[],
        "Requests without a token that is known",
    ),
    metric(
        Counter,
        Scheduler,
        "redeliver_events_read_total",
        &[],
        "Events that were sent to those who read them",
    ),
    metric(
        Gauge,
        Scheduler,
        "redeliver_event_streams",
        &["reader"],
        "Open streams of events, by the name of the token (anonymous without a token, other for \
         those that are not among the 20 busiest). A reader without a stream is absent",
    ),
    metric(
        Gauge,
        Scheduler,
        "redeliver_journal_lag_seconds",
        &["reader"],
        "How far such a reader is behind: the age of the first event that was not sent to it yet; 0 \
         if all were. Of its streams, the one that is furthest behind counts",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_due_jobs",
        &[],
        "Jobs that are due and wait for a claim",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_oldest_due_age_seconds",
        &[],
        "How long the first of these jobs has been due; 0 if none is due",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_pending_jobs",
        &["horizon"],
        "Jobs that wait, by when they are due: now, within 1h, 24h or 7d, or later. Each is in one \
         of them",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_in_flight_attempts",
        &[],
        "Attempts under way",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_window_attempts",
        &[],
        "Attempts that the windows of all destinations with work allow at once, together",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_destinations",
        &[],
        "Destinations that have work, or are held, or whose breaker is not closed",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_breakers",
        &["state"],
        "Those of these destinations whose breaker is open or half_open",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_held_destinations",
        &[],
        "Destinations that an operator holds",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_quarantined_jobs",
        &[],
        "Jobs in quarantine",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_workers",
        &[],
        "Workers with a recent heartbeat",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_redis_memory_used_bytes",
        &[],
        "Memory that Redis uses. In a Cluster, of all masters together",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_redis_memory_max_bytes",
        &[],
        "maxmemory of Redis; absent if a server has no limit. In a Cluster, of all masters together",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_redis_memory_per_job_bytes",
        &[],
        "Memory that Redis uses, divided by the number of jobs; absent without jobs",
    ),
    metric(
        Counter,
        Fleet,
        "redeliver_redis_evicted_keys_total",
        &[],
        "Keys that Redis has evicted since it was started. In a Cluster, of all masters together",
    ),
    metric(
        Gauge,
        Fleet,
        "redeliver_fleet_read_timestamp_seconds",
        &[],
        "When the figures of the fleet were read from Redis",
    ),
    metric(
        Gauge,
        Process,
        "redeliver_build_info",
        &["version"],
        "1, with the version of this process",
    ),
    metric(
        Gauge,
        Process,
        "process_resident_memory_bytes",
        &[],
        "Memory of this process that is in RAM. This and the figures below are read from \
         /proc, and are absent without it",
    ),
    metric(
        Gauge,
        Process,
        "process_virtual_memory_bytes",
        &[],
        "Virtual memory of this process",
    ),
    metric(
        Counter,
        Process,
        "process_cpu_seconds_total",
        &[],
        "CPU time that this process has used",
    ),
    metric(
        Gauge,
        Process,
        "process_open_fds",
        &[],
        "Open file descriptors of this process",
    ),
    metric(
        Gauge,
        Process,
        "process_max_fds",
        &[],
        "How many file descriptors this process may open; absent without a limit",
    ),
    metric(
        Gauge,
        Process,
        "process_start_time_seconds",
        &[],
        "When this process was started, as seconds since 1970",
    ),
];

impl Kind {
    /// Returns the word of Prometheus.
    pub const fn as_str(self) -> &'static str {
        match self {
            Counter => "counter",
            Gauge => "gauge",
            Histogram => "histogram",
        }
    }
}

impl Described {
    /// Returns its unit, which is part of its name.
    pub fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes"]
            .into_iter()
            .find(|unit| self.base().ends_with(&format!("_{unit}")))
    }

    /// Returns the name without `_total`.
    fn base(&self) -> &'static str {
        self.name.strip_suffix("_total").unwrap_or(self.name)
    }
}

/// An empty registry for the metrics of this table.
pub(super) fn registry() -> Registry {
    Registry::default()
}

/// Returns the metric of this name.
///
/// # Panics
/// If the table does not have it.
pub(super) fn described(name: &str) -> &'static Described {
    CATALOG
        .iter()
        .find(|described| described.name == name)
        .expect("every metric is in the catalog")
}

/// Registers a metric by its name in the table.
///
/// # Panics
/// If the table does not have it.
pub(super) fn register(registry: &mut Registry, name: &str, metric: impl Metric) {
    let described = described(name);
    let base = described.base();
    // The library adds the unit, and `_total`.
    let unit = described.unit();
    let own = unit.map_or(base, |unit| {
        base.trim_end_matches(unit).trim_end_matches('_')
    });
    match unit {
        Some("seconds") => {
            registry.register_with_unit(own, described.help, Unit::Seconds, metric);
        }
        Some("bytes") => registry.register_with_unit(own, described.help, Unit::Bytes, metric),
        _ => registry.register(own, described.help, metric),
    }
}
