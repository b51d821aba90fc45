//! Parts that most modes need: a private Redis, a store, jobs to put into the store, a sender that
//! sends nothing, and clocks for wall time and CPU time.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use config::model::Config;
use domain::account::Account;
use domain::address::Address;
use domain::clock::Clock;
use domain::destination::Destination;
use domain::job::{Head, JobId, Message};
use domain::outcome::Outcome;
use domain::pace::Pace;
use domain::reply::Reply;
use nix::sys::resource::{UsageWho, getrusage};
use policy::table::Table;
use private_servers::redis::PrivateRedis;
use senders::attempt::Attempt;
use senders::sender::Sender;
use store::connection::pool::Connections;
use store::handle::{Limits, Store};
use store::schedule::{Arrival, Purpose};
use system::clock::SystemClock;
use telemetry::spans::Tracing;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use worker::content::Contents;
use worker::routes::Routes;
use worker::run::Worker;

use crate::progress::Progress;

/// How many jobs one call to the store schedules or claims.
pub(crate) const BATCH: usize = 500;

/// The reply of `limit`'s server to a connection above its limit.
pub(crate) const TOO_MANY: &str = "421 4.3.2 too many connections";

/// The policy of the benches. A deferred job waits for 1 to 1.5 s, because 1 s is the shortest
/// delay that a schedule allows, and a bench should not take longer than needed.
const POLICY: &str = r#"
[[row]]
name = "system-full"
status = "4.3.1"
scope = "host"
delays = ["1s", "1s"]
jitter = "+50%"
final = "unavailable"

[[row]]
name = "too-many-connections"
status = ["4.3.2", "421"]
text = "too many"
scope = "SCOPE"
delays = [
    "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s",
    "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s",
]
jitter = "+50%"
hint = "ignore"
final = "unavailable"
"#;

/// Returns the settings of a worker for high throughput.
fn fast_settings() -> config::model::Worker {
    config::model::Worker {
        concurrency: 4_096,
        batch: BATCH,
        share: BATCH,
        ..Config::embedded().worker
    }
}

/// A private Redis with a store in it.
pub(crate) struct Rig {
    pub(crate) store: Store,
    connections: Connections,
    redis: PrivateRedis,
}

/// The time that some work took, and the CPU time that Redis and this process spent on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) redis_cpu: Duration,
    pub(crate) own_cpu: Duration,
}

/// The readings of the clocks before some work.
pub(crate) struct Start {
    wall: Instant,
    redis_cpu: Duration,
    own_cpu: Duration,
}

impl Rig {
    /// Returns a rig with an empty store, and no limit on the pace.
    pub(crate) async fn new() -> Result<Self> {
        Self::with_pace(Pace::unbounded()).await
    }

    /// Returns a rig with an empty store and this pace.
    pub(crate) async fn with_pace(pace: Pace) -> Result<Self> {
        let redis = PrivateRedis::volatile().await?;
        let mut config = Config::embedded();
        config.redis.use_private(&redis.url());
        let connections = Connections::new(&config.redis.servers(), config.redis.connections())?;
        let limits = Limits {
            pace,
            ..config.limits(&Table::embedded())
        };
        let clock = Arc::new(SystemClock);
        let store = Store::open(
            connections.clone(),
            &config.redis.prefix,
            config.redis.shards,
            limits,
            clock,
        )
        .await?;
        Ok(Self {
            store,
            connections,
            redis,
        })
    }

    /// Returns the URL of the Redis server.
    pub(crate) fn url(&self) -> String {
        self.redis.url()
    }

    /// Returns the path of the Redis server's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        let url = self.redis.url();
        PathBuf::from(url.strip_prefix("redis+unix://").unwrap_or(&url))
    }

    /// Closes the store and stops Redis.
    pub(crate) async fn end(self) {
        drop((self.store, self.connections));
        self.redis.stop().await;
    }

    /// Schedules jobs in batches.
    pub(crate) async fn schedule(&self, arrivals: impl Iterator<Item = Arrival>) -> Result<()> {
        let mut arrivals = arrivals.peekable();
        let mut progress = Progress::new("scheduling", arrivals.size_hint().0);
        let mut done = 0;
        while arrivals.peek().is_some() {
            let batch: Vec<Arrival> = arrivals.by_ref().take(BATCH).collect();
            self.store.schedule(&batch).await?;
            done += batch.len();
            progress.show(done as u64, "");
        }
        Ok(())
    }

    /// Starts a worker with this sender on all routes, and with settings for high throughput.
    pub(crate) fn start_worker(
        &self,
        sender: Arc<dyn Sender>,
        stop: &CancellationToken,
    ) -> JoinHandle<()> {
        self.start_worker_with(sender, fast_settings(), stop)
    }

    /// Like [`Self::start_worker`], with traces.
    pub(crate) fn start_traced_worker(
        &self,
        sender: Arc<dyn Sender>,
        stop: &CancellationToken,
        tracing: &Tracing,
    ) -> JoinHandle<()> {
        let worker = self.worker(sender, fast_settings()).with_tracing(tracing);
        tokio::spawn(worker.run(stop.clone()))
    }

    /// Starts a worker with this sender on all routes.
    pub(crate) fn start_worker_with(
        &self,
        sender: Arc<dyn Sender>,
        settings: config::model::Worker,
        stop: &CancellationToken,
    ) -> JoinHandle<()> {
        tokio::spawn(self.worker(sender, settings).run(stop.clone()))
    }

    fn worker(&self, sender: Arc<dyn Sender>, settings: config::model::Worker) -> Worker {
        let routes = Routes::new("bench").with("bench", sender);
        let contents = Contents::new(Vec::new());
        let table = Table::with_file("bench", &policy()).expect("the bench's policy is a constant");
        Worker::new(self.store.clone(), routes, contents, table.into(), settings)
    }

    /// Reads the clocks before some work.
    pub(crate) async fn start(&self) -> Result<Start> {
        Ok(Start {
            wall: Instant::now(),
            redis_cpu: self.redis_cpu().await?,
            own_cpu: own_cpu()?,
        })
    }

    /// Returns the time and CPU time spent since `start`.
    pub(crate) async fn cost(&self, start: &Start) -> Result<Cost> {
        Ok(Cost {
            wall: start.wall.elapsed(),
            redis_cpu: self.redis_cpu().await?.saturating_sub(start.redis_cpu),
            own_cpu: own_cpu()?.saturating_sub(start.own_cpu),
        })
    }

    /// Returns how many bytes Redis has allocated.
    pub(crate) async fn memory(&self) -> Result<f64> {
        number(&self.connections.info("memory").await?, "used_memory:")
    }

    async fn redis_cpu(&self) -> Result<Duration> {
        let info = self.connections.info("cpu").await?;
        let seconds = number(&info, "used_cpu_user:")? + number(&info, "used_cpu_sys:")?;
        Ok(Duration::from_secs_f64(seconds))
    }
}

/// Returns an address on loopback that no process listens on.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Returns the policy of the benches. For the replies that occur in benches it differs from the
/// default table only in its delays. So the scope of [`TOO_MANY`] is read from the default table.
fn policy() -> String {
    let reply = Reply::parse(TOO_MANY);
    let scope = Table::embedded().row(&reply, "", None, "d0.example").scope;
    POLICY.replace("SCOPE", scope.as_str())
}

fn number(info: &str, field: &str) -> Result<f64> {
    let value = info
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .with_context(|| format!("INFO has no {field}"))?;
    value
        .trim()
        .parse()
        .with_context(|| format!("INFO's {field} is not a number"))
}

fn own_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("the system reports no CPU times")?;
    let times = [usage.user_time(), usage.system_time()];
    let micros = times
        .iter()
        .map(|time| time.tv_sec() * 1_000_000 + time.tv_usec())
        .sum::<i64>();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}

impl Cost {
    /// Returns the microseconds per job, if `jobs` jobs took this time.
    pub(crate) fn each(span: Duration, jobs: usize) -> f64 {
        span.as_secs_f64() * 1e6 / jobs as f64
    }

    /// Returns the jobs per second, if the work was `jobs` jobs.
    pub(crate) fn rate(self, jobs: usize) -> f64 {
        jobs as f64 / self.wall.as_secs_f64()
    }
}

/// Returns job number `n` at destination number `destination`, due after `delay`. Its record and
/// ids have about 300 bytes.
pub(crate) fn arrival(n: usize, destination: usize, delay: Duration) -> Arrival {
    let recipient = Address::parse(&format!("{}@d{destination}.example", local_part(n)))
        .expect("the address is valid");
    let job = JobId {
        account: Account::default(),
        recipient,
    };
    let reply = Reply::parse("452 4.3.1 Insufficient system storage");
    let now = SystemClock.now();
    let place = Destination::own(&job.recipient);
    let message = Message {
        id: format!("<c42.{n}@news.example.org>"),
        bounced_at: now,
        accepted: None,
        envelope_from: Some(
            Address::parse("bounce@news.example.org").expect("the address is valid"),
        ),
        route: None,
        stream: Some("news".to_owned()),
        expires_at: None,
        content: None,
        remote_mta: None,
        traceparent: None,
        metadata: serde_json::Map::new(),
    };
    let head = Head::new(place, "system-full", &reply, now, now);
    Arrival {
        job,
        head,
        message,
        occurred_at: None,
        purpose: Purpose::Retry(delay),
        reply,
        source: "bench",
    }
}

/// Returns a local part like those of real mailboxes: letters and a number, 8 to 27 characters.
fn local_part(n: usize) -> String {
    let mixed = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let letters =
        (0..3 + mixed % 16).map(|k| char::from(b'a' + ((mixed >> (2 + 3 * k)) % 26) as u8));
    format!("{}.{n}", letters.collect::<String>())
}

/// Sends nothing, and reports each message as delivered. If `defer_first` is set, it reports the
/// first attempt of each job as deferred. Counts the deliveries.
#[derive(Debug, Default)]
pub(crate) struct NoSender {
    delivered: AtomicU64,
    defer_first: bool,
}

impl NoSender {
    /// Returns a sender that defers the first attempt of every job.
    pub(crate) fn deferring() -> Self {
        Self {
            defer_first: true,
            ..Self::default()
        }
    }

    /// Returns how many messages were delivered.
    pub(crate) fn delivered(&self) -> usize {
        self.delivered.load(Ordering::Relaxed) as usize
    }

    /// Waits until `jobs` messages were delivered.
    pub(crate) async fn wait_for(&self, jobs: usize) {
        while self.delivered() < jobs {
            sleep(Duration::from_millis(2)).await;
        }
    }
}

#[async_trait]
impl Sender for NoSender {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        if self.defer_first && attempt.number == 1 {
            return Outcome::Deferred(Reply::parse("452 4.3.1 Insufficient system storage"));
        }
        self.delivered.fetch_add(1, Ordering::Relaxed);
        Outcome::Delivered(Reply::parse("250 2.0.0 Ok"))
    }
}

/// A small generator of uniform numbers in 0..1, the same at every run (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Zipf's law with exponent 1: the first rank is r times as frequent as rank r.
pub(crate) struct Zipf {
    cumulated: Vec<f64>,
}

impl Zipf {
    /// Returns the distribution over `ranks` ranks.
    pub(crate) fn new(ranks: usize) -> Self {
        let mut sum = 0.0;
        let cumulated = (1..=ranks).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self {
            cumulated: cumulated.collect(),
        }
    }

    /// Returns the rank, counted from 0, for a uniform number in 0..1.
    pub(crate) fn pick(&self, uniform: f64) -> usize {
        let last = self.cumulated.last().copied().unwrap_or_default();
        self.cumulated.partition_point(|sum| *sum < uniform * last)
    }
}
