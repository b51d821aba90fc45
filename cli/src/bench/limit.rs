//! Measures how well the pace adapts to a mail server with a hard limit on connections. Far more
//! jobs are due than the server can accept at once. All are sent over SMTP. Postfix has published
//! figures for the same set-up (postfix.org, SCHEDULER_README): its 1/N feedback defers 16.5 % of
//! deliveries, and its ±1 feedback 49.7 %.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use config::model::Config;
use domain::address::Address;
use domain::destination::Destination;
use domain::event::EventKind;
use domain::job::ContentRef;
use domain::outcome::Outcome;
use domain::pace::Pace;
use senders::attempt::Attempt;
use senders::mx::MxSender;
use senders::sender::Sender;
use senders::settings::mx::MxSettings;
use senders::settings::session::SmtpTimeouts;
use store::destination_controls::BreakerState;
use store::entry_id::EntryId;
use store::handle::Store;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::server::Server;
use super::rig::{Rig, arrival};
use super::{Figures, figures};
use crate::progress::Progress;

mod server;

/// How many attempts a worker may have in flight. The servers accept far fewer, so only the pace
/// limits the attempts.
const CONCURRENCY: usize = 256;

/// How often the pace is read.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// After how long a run ends even if the server has not accepted all messages. The result covers
/// the attempts until then.
const RUN_MAX: Duration = Duration::from_secs(90);

/// The result of one run.
struct Measured {
    /// The share of attempts that the server refused, in percent.
    deferred_percent: f64,
    /// The percentage of the server's connections that were busy with a message, on average.
    used_percent: f64,
    /// How often the breaker opened.
    openings: f64,
}

/// Measures servers that accept 5, 20 and 50 connections, each with one worker and with four. A
/// run delivers `jobs` messages; by default as many as the server can accept in about ten seconds.
pub(crate) async fn limit(jobs: Option<usize>) -> Result<Figures> {
    let mut all = Figures::new();
    for limit in [5, 20, 50] {
        for workers in [1, 4] {
            let measured = run(limit, workers, jobs.unwrap_or(limit * 360)).await?;
            let name = format!(
                "limit {limit}, {workers} worker{}",
                if workers == 1 { "" } else { "s" }
            );
            all.extend(figures([
                (
                    &format!("{name}: deferred, percent"),
                    measured.deferred_percent,
                ),
                (&format!("{name}: used, percent"), measured.used_percent),
                (&format!("{name}: breaker opened"), measured.openings),
            ]));
        }
    }
    Ok(all)
}

/// Runs until the server has accepted `jobs` messages, but for at most [`RUN_MAX`]. Twice as many
/// jobs are due, so that there are always more than the server can accept.
async fn run(limit: usize, workers: usize, jobs: usize) -> Result<Measured> {
    let rig = Rig::with_pace(Pace::default()).await?;
    let server = Server::start(limit)
        .await
        .context("cannot start a mail server on loopback")?;
    rig.schedule((0..2 * jobs).map(|n| {
        let mut arrival = arrival(n, 0, Duration::ZERO);
        arrival.message.content = Some(ContentRef::Inline("Subject: hello\n\nhello\n".to_owned()));
        arrival
    }))
    .await?;
    let counts = Arc::new(AttemptCounts::default());
    let recipient = Address::parse(&format!("jo@[{}]", server.address.ip()))?;
    let stop = CancellationToken::new();
    let started = Instant::now();
    let settings = config::model::Worker {
        concurrency: CONCURRENCY,
        ..Config::embedded().worker
    };
    let tasks: Vec<_> = (0..workers)
        .map(|_| {
            let sender = CountingSender {
                sender: sender_to(&server),
                recipient: recipient.clone(),
                counts: counts.clone(),
            };
            rig.start_worker_with(Arc::new(sender), settings.clone(), &stop)
        })
        .collect();
    let destination = Destination::named("d0.example");
    let mut progress = Progress::new(format!("limit {limit}, {workers} workers"), jobs);
    while counts.accepted() < jobs && started.elapsed() < RUN_MAX {
        sleep(POLL_INTERVAL).await;
        let pace = rig.store.pace(&destination).await?;
        let window = pace.window.unwrap_or_default();
        let breaker = if pace.breaker == BreakerState::Closed {
            ""
        } else {
            ", breaker open"
        };
        progress.show(
            counts.accepted() as u64,
            &format!(
                "{} deferred, window {window:.1}{breaker}",
                counts.deferred()
            ),
        );
    }
    let wall = started.elapsed();
    let busy = server.busy();
    let attempts = counts.all() as f64;
    let deferred = counts.deferred() as f64;
    stop.cancel();
    for task in tasks {
        task.await?;
    }
    let openings = openings(&rig.store).await?;
    rig.end().await;
    Ok(Measured {
        deferred_percent: 100.0 * deferred / attempts,
        used_percent: 100.0 * busy.as_secs_f64() / (wall.as_secs_f64() * limit as f64),
        openings,
    })
}

/// Returns a sender that delivers to the recipient's own mail host. A sender to a relay would not
/// do, because a 421 from a relay does not count against the destination. DNS is not used: the
/// recipient's domain is the server's IP address.
fn sender_to(server: &Server) -> MxSender {
    let mut settings = MxSettings {
        port: server.address.port(),
        private_hosts: true,
        nameservers: vec![server.address],
        ..MxSettings::default()
    };
    settings.session.helo = "bench.example".to_owned();
    settings.session.connections = CONCURRENCY;
    settings.session.timeouts = SmtpTimeouts::all(Duration::from_secs(30));
    MxSender::new(settings)
}

/// Counts in the journal how often a breaker opened.
async fn openings(store: &Store) -> Result<f64> {
    const PAGE: usize = 1_000;
    let mut after = vec![EntryId::default(); usize::from(store.shards())];
    let mut openings = 0;
    loop {
        let pages = store.read_journal(&after, PAGE).await?;
        let mut found = false;
        for (after, page) in after.iter_mut().zip(pages) {
            if let Some(last) = page.last() {
                *after = last.id;
                found = true;
            }
            let events = page.iter().flat_map(|entry| &entry.events);
            openings += events
                .filter(|event| event.kind == EventKind::BreakerOpened)
                .count();
        }
        if !found {
            return Ok(openings as f64);
        }
    }
}

/// How many attempts all workers have completed, by result.
#[derive(Debug, Default)]
struct AttemptCounts {
    all: AtomicU64,
    accepted: AtomicU64,
    /// Attempts that the server did not accept, for any reason.
    deferred: AtomicU64,
}

impl AttemptCounts {
    fn all(&self) -> usize {
        self.all.load(Ordering::Relaxed) as usize
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed) as usize
    }

    fn deferred(&self) -> usize {
        self.deferred.load(Ordering::Relaxed) as usize
    }
}

/// Sends over SMTP, and counts the results.
struct CountingSender {
    sender: MxSender,
    /// An address at the server. It replaces the recipient of every job.
    recipient: Address,
    counts: Arc<AttemptCounts>,
}

#[async_trait]
impl Sender for CountingSender {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        let attempt = Attempt {
            recipient: self.recipient.clone(),
            ..attempt.clone()
        };
        let outcome = self.sender.send(&attempt).await;
        self.counts.all.fetch_add(1, Ordering::Relaxed);
        let result = match &outcome {
            Outcome::Delivered(_) | Outcome::Accepted(_) => &self.counts.accepted,
            _ => &self.counts.deferred,
        };
        result.fetch_add(1, Ordering::Relaxed);
        outcome
    }
}
