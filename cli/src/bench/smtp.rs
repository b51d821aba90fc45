//! Measures the cost of delivery over SMTP. Messages of 4 KiB are claimed, sent to Postfix's
//! `smtp-sink` on loopback, and settled. Two other ways of delivering the same messages are
//! measured for comparison: Postfix's own `smtp-source` with the same sink and as many sessions,
//! and a Postfix that delivers from its deferred queue.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use config::model::{Config, Worker};
use domain::job::ContentRef;
use domain::outcome::Outcome;
use domain::transcript::Transcript;
use private_servers::postfix::tool;
use senders::attempt::Attempt;
use senders::sender::Sender;
use senders::settings::smtp::SmtpSettings;
use senders::smtp::SmtpSender;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::feed::{MESSAGE_SIZE, SESSIONS, feed};
use super::rig::{Cost, Rig, arrival, free_address};
use super::{Figures, figures, postfix};

/// How many attempts may be under way at once. There are more attempts than sessions, because an
/// attempt that waits to be settled uses no session.
const CONCURRENCY: usize = 4 * SESSIONS;

/// How long the sink may take until it listens.
const START_MAX: Duration = Duration::from_secs(5);

/// Delivers `jobs` messages, one per job, in each of the three ways.
pub(crate) async fn smtp(jobs: usize) -> Result<Figures> {
    let sink = Sink::start().await?;
    let source_time = feed(sink.address, jobs).await?;
    let rig = Rig::new().await?;
    let body = content();
    let arrivals = (0..jobs).map(|n| {
        let mut arrival = arrival(n, n % 1_000, Duration::ZERO);
        arrival.message.content = Some(ContentRef::Inline(body.clone()));
        arrival
    });
    rig.schedule(arrivals.collect::<Vec<_>>().into_iter())
        .await?;

    let sender = Arc::new(CountingSender::to(sink.address));
    let stop = CancellationToken::new();
    let start = rig.start().await?;
    let settings = Worker {
        concurrency: CONCURRENCY,
        ..Config::embedded().worker
    };
    let worker = rig.start_worker_with(sender.clone(), settings, &stop);
    sender.wait_for(jobs).await;
    // Stopping the worker is part of the work: the last jobs are settled only at its end.
    stop.cancel();
    worker.await?;
    let cost = rig.cost(&start).await?;
    ensure!(
        sender.failed() == 0,
        "smtp-sink did not accept {} attempts",
        sender.failed()
    );
    rig.end().await;
    let queue_time = postfix::time_to_drain(sink.address, jobs).await?;

    let by_queue = jobs as f64 / queue_time.as_secs_f64();
    let by_source = jobs as f64 / source_time.as_secs_f64();
    Ok(figures([
        ("messages per second", cost.rate(jobs)),
        ("smtp-source: messages per second", by_source),
        (
            "of smtp-source, percent",
            100.0 * cost.rate(jobs) / by_source,
        ),
        ("Postfix's queue: messages per second", by_queue),
        ("times Postfix's queue", cost.rate(jobs) / by_queue),
        ("own us per message", Cost::each(cost.own_cpu, jobs)),
        ("redis us per message", Cost::each(cost.redis_cpu, jobs)),
    ]))
}

/// Returns a message of about [`MESSAGE_SIZE`] bytes, with lines of a usual length.
fn content() -> String {
    const LINE: &str =
        "The quick brown fox jumps over the lazy dog, and then once more the other way.\r\n";
    let mut text = "From: news@news.example.org\r\nSubject: bench\r\n\r\n".to_owned();
    while text.len() + LINE.len() <= MESSAGE_SIZE {
        text.push_str(LINE);
    }
    text
}

/// A running `smtp-sink`. It ends when this is dropped.
struct Sink {
    address: SocketAddr,
    _process: Child,
}

impl Sink {
    async fn start() -> Result<Self> {
        let address = free_address()?;
        let process = tool("smtp-sink")
            // smtp-sink does not run as root: it needs a user to change to.
            .args(["-u", "postfix", &address.to_string(), "1024"])
            .kill_on_drop(true)
            .spawn()
            .context("cannot start smtp-sink; it is part of Postfix: apt-get install postfix")?;
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(address).await.is_err() {
            ensure!(
                Instant::now() < deadline,
                "smtp-sink does not listen at {address}"
            );
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Self {
            address,
            _process: process,
        })
    }
}

/// The real sender, which also counts how its attempts ended.
struct CountingSender {
    sender: SmtpSender,
    accepted: AtomicU64,
    failed: AtomicU64,
}

impl CountingSender {
    fn to(sink: SocketAddr) -> Self {
        let mut settings = SmtpSettings::new(sink.ip().to_string(), sink.port());
        settings.session.helo = "bench.example".to_owned();
        settings.session.connections = SESSIONS;
        Self {
            sender: SmtpSender::new(settings),
            accepted: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits until `jobs` attempts have ended.
    async fn wait_for(&self, jobs: usize) {
        while self.accepted.load(Ordering::Relaxed) + self.failed() < jobs as u64 {
            sleep(Duration::from_millis(2)).await;
        }
    }
}

#[async_trait]
impl Sender for CountingSender {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        self.send_traced(attempt).await.0
    }

    async fn send_traced(&self, attempt: &Attempt) -> (Outcome, Option<Transcript>) {
        let (outcome, transcript) = self.sender.send_traced(attempt).await;
        let count = if matches!(outcome, Outcome::Accepted(_)) {
            &self.accepted
        } else {
            &self.failed
        };
        count.fetch_add(1, Ordering::Relaxed);
        (outcome, transcript)
    }
}
