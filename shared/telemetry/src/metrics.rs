//! The metrics of a process. They are always on, because nothing is sent: whoever wants them asks
//! for them. Recording one takes some hundred nanoseconds. No label has a value of personal data,
//! and each has a bounded number of values.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domain::outcome::Outcome;
use domain::reply::Reply;
use domain::standing::Standing;
use domain::transcript::{Phase, Transcript};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::budget::Lost;
use crate::traceparent::TraceContext;
use crate::words::{attempt_word, class_of, error_type, outcome_word};

pub mod catalog;
mod destinations;
mod exemplars;
pub mod fleet;
mod process;
pub mod readers;
pub mod redis;
pub mod text;

use catalog::register;
use destinations::Destinations;
use exemplars::{TraceLabel, TracedCounters};
use fleet::{FleetGauges, FleetReading};
use process::ProcessFigures;
use readers::{OpenStream, ReaderGauges};
use redis::RedisMetrics;
use text::TextFormat;

/// The limits of the buckets for what lasts up to minutes, in seconds.
const LONG: [f64; 12] = [
    0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1_800.0,
];

/// The limits of the buckets for lateness, in seconds.
const LATENESS: [f64; 9] = [0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0];

/// The labels of a metric with one or two labels, as pairs of name and value.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// The handle that records the metrics of a process and writes them. Clones share the metrics. A
/// new handle has metrics of its own.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

/// An attempt that has ended, and has tried a message.
#[derive(Clone, Copy, Debug)]
pub struct Attempted<'a> {
    /// What the sender saw of the message that was tried last.
    pub outcome: &'a Outcome,
    /// The number of the attempt.
    pub number: u32,
    /// The kind of sender.
    pub sender: &'static str,
    /// The destination.
    pub destination: &'a str,
    /// How long it took.
    pub took: Duration,
    /// Its span, if it is sent to a collector.
    pub span: Option<TraceContext>,
}

/// Where the content of a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentRead {
    /// From the cache.
    Hit,
    /// From where the platform keeps it.
    Miss,
    /// It could not be read.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    outcome: &'static str,
    class: &'static str,
    attempt: &'static str,
    sender: &'static str,
    destination: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
    kind: &'static str,
}

struct Inner {
    registry: Registry,
    destinations: Mutex<Destinations>,
    refreshers: Mutex<Vec<Refresher>>,
    bounces: Family<Labels<3>, Counter>,
    attempts: TracedCounters<AttemptLabels>,
    verdicts: Family<Labels<1>, Counter>,
    attempt_duration: Family<Labels<1>, TracedHistogram, fn() -> TracedHistogram>,
    phase_duration: Family<Labels<1>, Histogram, fn() -> Histogram>,
    connection_wait: Histogram,
    claim_lateness: Histogram,
    lapses: Counter,
    stale_settlements: Counter,
    own_trouble: Family<RouteLabels, Counter>,
    content_reads: Family<Labels<1>, Counter>,
    permits: Family<Labels<1>, Gauge>,
    draining: Family<Labels<0>, Gauge>,
    standing_changes: Family<Labels<1>, Counter>,
    redis: RedisMetrics,
    telemetry_lost: Family<Labels<2>, Counter>,
    upkeep_runs: Family<Labels<2>, Counter>,
    upkeep_last_success: Family<Labels<1>, Gauge<f64, AtomicU64>>,
    failed_sign_ins: Counter,
    events_read: Counter,
    readers: ReaderGauges,
    fleet: FleetGauges,
    process: ProcessFigures,
    build_info: Family<Labels<1>, Gauge>,
}

/// Sets what is only looked up when somebody asks for the metrics.
type Refresher = Box<dyn Fn(&Metrics) + Send + Sync>;

type TracedHistogram = HistogramWithExemplars<TraceLabel>;

fn long() -> Histogram {
    Histogram::new(LONG)
}

fn long_with_exemplars() -> TracedHistogram {
    HistogramWithExemplars::new(LONG.into_iter())
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = catalog::registry();
        let fleet = FleetGauges::new(&mut registry);
        let redis = RedisMetrics::new(&mut registry);
        let readers = ReaderGauges::new(&mut registry);
        let process = ProcessFigures::new(&mut registry);
        let mut inner = Inner {
            registry,
            destinations: Mutex::default(),
            refreshers: Mutex::default(),
            bounces: Family::default(),
            attempts: TracedCounters::default(),
            verdicts: Family::default(),
            attempt_duration: Family::new_with_constructor(long_with_exemplars),
            phase_duration: Family::new_with_constructor(long),
            connection_wait: long(),
            claim_lateness: Histogram::new(LATENESS),
            lapses: Counter::default(),
            stale_settlements: Counter::default(),
            own_trouble: Family::default(),
            content_reads: Family::default(),
            permits: Family::default(),
            draining: Family::default(),
            standing_changes: Family::default(),
            redis,
            telemetry_lost: Family::default(),
            upkeep_runs: Family::default(),
            upkeep_last_success: Family::default(),
            failed_sign_ins: Counter::default(),
            events_read: Counter::default(),
            readers,
            fleet,
            process,
            build_info: Family::default(),
        };
        inner.register();
        Self(Arc::new(inner))
    }
}

impl Inner {
    /// Registers what is registered nowhere else.
    fn register(&mut self) {
        macro_rules! register {
            ($($name:literal $field:ident)+) => {
                $(register(&mut self.registry, $name, self.$field.clone());)+
            };
        }
        register! {
            "redeliver_bounces_total" bounces
            "redeliver_attempts_total" attempts
            "redeliver_verdicts_total" verdicts
            "redeliver_attempt_duration_seconds" attempt_duration
            "redeliver_phase_duration_seconds" phase_duration
            "redeliver_connection_wait_seconds" connection_wait
            "redeliver_claim_lateness_seconds" claim_lateness
            "redeliver_lapses_total" lapses
            "redeliver_stale_settlements_total" stale_settlements
            "redeliver_own_trouble_total" own_trouble
            "redeliver_content_reads_total" content_reads
            "redeliver_worker_permits" permits
            "redeliver_worker_draining" draining
            "redeliver_standing_changes_total" standing_changes
            "redeliver_telemetry_lost_total" telemetry_lost
            "redeliver_upkeep_runs_total" upkeep_runs
            "redeliver_upkeep_last_success_timestamp_seconds" upkeep_last_success
            "redeliver_failed_sign_ins_total" failed_sign_ins
            "redeliver_events_read_total" events_read
            "redeliver_build_info" build_info
        }
    }
}

impl Metrics {
    /// Returns all metrics as text.
    pub fn write(&self, format: TextFormat) -> String {
        let mut text = String::new();
        {
            // Kept while the text is written, so that no other scrape changes anything meanwhile.
            let refreshers = self.0.refreshers.lock();
            let refreshers = refreshers.unwrap_or_else(PoisonError::into_inner);
            for refresh in &*refreshers {
                refresh(self);
            }
            self.0.process.refresh();
            encode(&mut text, &self.0.registry).expect("writing into a text does not fail");
        }
        // A gauge that may be absent is a family without labels, and is written with an empty set.
        let text = text.replace("{} ", " ");
        match format {
            TextFormat::OpenMetrics => text,
            TextFormat::Classic => text::classic(&text),
        }
    }

    /// Sets the version that this process reports.
    pub fn version(&self, version: &'static str) {
        self.0
            .build_info
            .get_or_create(&[("version", version)])
            .set(1);
    }

    /// Adds destinations that are always named in labels: the configured providers.
    pub fn name_destinations<'n>(&self, names: impl Iterator<Item = &'n str>) {
        let destinations = &self.0.destinations;
        destinations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add_providers(names);
    }

    /// Records a bounce: what it was answered, which way it came in, and the reply that it reports.
    pub fn bounce(&self, answer: &'static str, source: &'static str, reply: &Reply) {
        let labels = [
            ("answer", answer),
            ("source", source),
            ("class", class_of(Some(reply))),
        ];
        self.0.bounces.get_or_create(&labels).inc();
    }

    /// Records an attempt that has tried a message.
    pub fn attempt(&self, attempted: &Attempted<'_>) {
        let Attempted {
            outcome,
            number,
            sender,
            destination,
            took,
            span,
        } = *attempted;
        let trace = span.map(|span| (TraceLabel(span), SystemTime::now()));
        let label = {
            let destinations = &self.0.destinations;
            let mut destinations = destinations.lock().unwrap_or_else(PoisonError::into_inner);
            destinations.count(destination)
        };
        if let Some(replaced) = label.replaced {
            self.0
                .attempts
                .retain(|labels| labels.destination != replaced);
        }
        let labels = AttemptLabels {
            outcome: outcome_word(outcome),
            class: class_of(outcome.reply()),
            attempt: attempt_word(number),
            sender,
            destination: label.name,
        };
        self.0.attempts.count(labels, trace);
        let (trace, at) = trace.unzip();
        self.0
            .attempt_duration
            .get_or_create(&[("sender", sender)])
            .observe(took.as_secs_f64(), trace, at);
    }

    /// Records what the policy decided about one message.
    pub fn verdict(&self, verdict: &'static str) {
        self.0.verdicts.get_or_create(&[("verdict", verdict)]).inc();
    }

    /// Records the phases of one SMTP conversation, and how long it waited for a connection.
    pub fn conversation(&self, transcript: &Transcript) {
        self.0
            .connection_wait
            .observe(transcript.waited().as_secs_f64());
        let phases = transcript.sums().into_iter();
        for (phase, ms) in phases.filter(|(phase, _)| *phase != Phase::Wait) {
            self.0
                .phase_duration
                .get_or_create(&[("phase", phase.as_str())])
                .observe(ms as f64 / 1_000.0);
        }
    }

    /// Records how long a job had been due when it was claimed.
    pub fn claimed(&self, late: Duration) {
        self.0.claim_lateness.observe(late.as_secs_f64());
    }

    /// Records jobs whose attempts did not end.
    pub fn lapsed(&self, jobs: u64) {
        self.0.lapses.inc_by(jobs);
    }

    /// Records attempts whose lease had run out before they were settled.
    pub fn stale(&self, attempts: u64) {
        self.0.stale_settlements.inc_by(attempts);
    }

    /// Records that a message was not sent because of trouble of our own. `route` is the name of a
    /// configured route.
    pub fn own_trouble(&self, route: &str, outcome: &Outcome) {
        let labels = RouteLabels {
            route: route.to_owned(),
            kind: error_type(outcome).unwrap_or("none"),
        };
        self.0.own_trouble.get_or_create(&labels).inc();
    }

    /// Records that content was read, or could not be.
    pub fn content_read(&self, read: ContentRead) {
        let result = match read {
            ContentRead::Hit => "hit",
            ContentRead::Miss => "miss",
            ContentRead::Failed => "failed",
        };
        self.0
            .content_reads
            .get_or_create(&[("result", result)])
            .inc();
    }

    /// Sets how many permits for attempts are free, and how many are used.
    pub fn permits(&self, free: usize, used: usize) {
        for (state, count) in [("free", free), ("used", used)] {
            let permits = self.0.permits.get_or_create(&[("state", state)]);
            permits.set(count.try_into().unwrap_or(i64::MAX));
        }
    }

    /// Sets whether this worker stops and claims nothing more.
    pub fn draining(&self, is_draining: bool) {
        self.0.draining.get_or_create(&[]).set(is_draining.into());
    }

    /// Records addresses that got this standing.
    pub fn standing_changed(&self, standing: Standing, addresses: u64) {
        self.0
            .standing_changes
            .get_or_create(&[("standing", standing.as_str())])
            .inc_by(addresses);
    }

    /// Returns the metrics about Redis.
    pub fn redis(&self) -> &RedisMetrics {
        &self.0.redis
    }

    /// Records a run of an upkeep task.
    pub fn upkeep(&self, task: &'static str, is_done: bool) {
        let result = if is_done { "done" } else { "failed" };
        self.0
            .upkeep_runs
            .get_or_create(&[("task", task), ("result", result)])
            .inc();
        if is_done {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            self.0
                .upkeep_last_success
                .get_or_create(&[("task", task)])
                .set(now.unwrap_or_default().as_secs_f64());
        }
    }

    /// Records a request without a token that is known.
    pub fn failed_sign_in(&self) {
        self.0.failed_sign_ins.inc();
    }

    /// Records events that were sent to a reader.
    pub fn events_read(&self, events: u64) {
        self.0.events_read.inc_by(events);
    }

    /// Sets which streams of events are open now.
    pub fn event_streams(&self, open: &[OpenStream]) {
        self.0.readers.set(open);
    }

    /// Sets the figures of the whole fleet. Without a reading they are absent.
    pub fn fleet(&self, reading: Option<&FleetReading>) {
        self.0.fleet.set(reading);
    }

    /// From now on, calls this each time before the metrics are written. It must not keep a handle
    /// of these metrics, and must not block.
    pub fn before_write(&self, refresh: impl Fn(&Self) + Send + Sync + 'static) {
        let refreshers = &self.0.refreshers;
        refreshers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(refresh));
    }

    /// Sets how much of a signal the collector did not get since the process started.
    pub(crate) fn lost(&self, signal: &'static str, lost: Lost) {
        for (reason, count) in [("dropped", lost.dropped), ("failed", lost.failed)] {
            self.0
                .telemetry_lost
                .get_or_create(&[("signal", signal), ("reason", reason)])
                .inner()
                .store(count, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests;
