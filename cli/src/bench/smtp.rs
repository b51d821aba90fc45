//! What it costs to deliver over SMTP: messages of 4 KiB through claim, content, SMTP and settle to
//! Postfix's `smtp-sink` on loopback, beside what Postfix's own `smtp-source` does to the same sink
//! over as many sessions, and what Postfix does with a deferred queue of the same messages.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
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
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::rig::{Cost, Rig, arrival};
use super::{Figures, figures, postfix};

/// Bytes of a message.
const SIZE: usize = 4 << 10;

/// Sessions at once, ours and `smtp-source`'s alike.
pub(crate) const SESSIONS: usize = 64;

/// Attempts under way at once. Those that wait to be settled, or to be claimed, leave their
/// sessions to others.
const ATTEMPTS: usize = 4 * SESSIONS;

/// How long the sink may take to listen.
const START_MAX: Duration = Duration::from_secs(5);

/// Delivers `jobs` messages, each a job of its own.
pub(crate) async fn smtp(jobs: usize) -> Result<Figures> {
    let sink = Sink::start().await?;
    let source = feed(sink.address, jobs).await?;
    let rig = Rig::new().await?;
    let body = content();
    let arrivals = (0..jobs).map(|n| {
        let mut arrival = arrival(n, n % 1_000, Duration::ZERO);
        arrival.message.content = Some(ContentRef::Inline(body.clone()));
        arrival
    });
    rig.schedule(arrivals.collect::<Vec<_>>().into_iter())
        .await?;

    let sender = Arc::new(Counting::to(sink.address));
    let stop = CancellationToken::new();
    let start = rig.start().await?;
    let settings = Worker {
        concurrency: ATTEMPTS,
        ..Config::embedded().worker
    };
    let worker = rig.start_worker_with(sender.clone(), settings, &stop);
    sender.wait_for(jobs).await;
    // The drain belongs to it: only then is the last of them settled.
    stop.cancel();
    worker.await?;
    let cost = rig.cost(&start).await?;
    ensure!(
        sender.failed() == 0,
        "{} attempts got no yes from smtp-sink",
        sender.failed()
    );
    rig.end().await;
    let queue = postfix::drained(sink.address, jobs).await?;

    let by_queue = jobs as f64 / queue.as_secs_f64();
    let by_source = jobs as f64 / source.as_secs_f64();
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

/// A message of [`SIZE`] bytes, with lines as long as people write them.
fn content() -> String {
    const LINE: &str =
        "The quick brown fox jumps over the lazy dog, and then once more the other way.\r\n";
    let mut text = "From: news@news.example.org\r\nSubject: bench\r\n\r\n".to_owned();
    while text.len() + LINE.len() <= SIZE {
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
            // It gives up the rights of root, and insists on that.
            .args(["-u", "postfix", &address.to_string(), "1024"])
            .kill_on_drop(true)
            .spawn()
            .context(
                "smtp-sink does not start; it is a part of Postfix: apt-get install postfix",
            )?;
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

/// An address of loopback that nobody listens on.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// How long `smtp-source` takes to hand in as many messages of this size, over as many sessions
/// that it uses again.
pub(crate) async fn feed(to: SocketAddr, messages: usize) -> Result<Duration> {
    const MOST: Duration = Duration::from_secs(600);
    let [sessions, size, messages] = [SESSIONS, SIZE, messages].map(|number| number.to_string());
    let arguments = ["-d", "-s", &sessions, "-l", &size, "-m", &messages];
    let addresses = [
        "-f",
        "bounce@news.example.org",
        "-t",
        "jo@d0.example",
        "-M",
        "bench.example",
    ];
    let start = Instant::now();
    let mut source = tool("smtp-source");
    let source = source
        .args(arguments)
        .args(addresses)
        .arg(to.to_string())
        .kill_on_drop(true);
    let ended = timeout(MOST, source.status())
        .await
        .context("smtp-source does not end")?;
    if !ended
        .context("smtp-source does not start; it is a part of Postfix: apt-get install postfix")?
        .success()
    {
        bail!("smtp-source failed");
    }
    Ok(start.elapsed())
}

/// The real sender, and how its attempts ended.
struct Counting {
    sender: SmtpSender,
    taken: AtomicU64,
    failed: AtomicU64,
}

impl Counting {
    fn to(sink: SocketAddr) -> Self {
        let mut settings = SmtpSettings::new(sink.ip().to_string(), sink.port());
        settings.session.helo = "bench.example".to_owned();
        settings.session.connections = SESSIONS;
        Self {
            sender: SmtpSender::new(settings),
            taken: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits until so many attempts have ended.
    async fn wait_for(&self, jobs: usize) {
        while self.taken.load(Ordering::Relaxed) + self.failed() < jobs as u64 {
            sleep(Duration::from_millis(2)).await;
        }
    }
}

#[async_trait]
impl Sender for Counting {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        self.send_traced(attempt).await.0
    }

    async fn send_traced(&self, attempt: &Attempt) -> (Outcome, Option<Transcript>) {
        let (outcome, transcript) = self.sender.send_traced(attempt).await;
        let count = if matches!(outcome, Outcome::Accepted(_)) {
            &self.taken
        } else {
            &self.failed
        };
        count.fetch_add(1, Ordering::Relaxed);
        (outcome, transcript)
    }
}
