//! How well the pace finds what a server takes: far more jobs than a server with a hard limit of
//! connections serves, over SMTP. Postfix publishes the same set-up (postfix.org,
//! SCHEDULER_README): its 1/N feedback defers 16.5 % of deliveries, and its ±1 feedback 49.7 %.

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

/// What a worker would do at once if pace let it: far more than any server here takes.
const CONCURRENCY: usize = 256;

/// How often the pace is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the server is used badly, what it has taken until then counts.
const RUN_MAX: Duration = Duration::from_secs(90);

/// What one run came to.
struct Found {
    deferred_percent: f64,
    used_percent: f64,
    openings: f64,
}

/// Lets servers that take 5, 20 and 50 connections each take what they can in about ten seconds,
/// from one worker and from four; or so many `jobs`.
pub(crate) async fn limit(jobs: Option<usize>) -> Result<Figures> {
    let mut all = Figures::new();
    for limit in [5, 20, 50] {
        for workers in [1, 4] {
            let found = run(limit, workers, jobs.unwrap_or(limit * 360)).await?;
            let names = format!(
                "limit {limit}, {workers} worker{}",
                if workers == 1 { "" } else { "s" }
            );
            all.extend(figures([
                (
                    &format!("{names}: deferred, percent"),
                    found.deferred_percent,
                ),
                (&format!("{names}: used, percent"), found.used_percent),
                (&format!("{names}: breaker opened"), found.openings),
            ]));
        }
    }
    Ok(all)
}

/// Until the server has taken `jobs` messages, of twice as many that are due.
async fn run(limit: usize, workers: usize, jobs: usize) -> Result<Found> {
    let rig = Rig::with_pace(Pace::default()).await?;
    let server = Server::start(limit)
        .await
        .context("no mail server on loopback")?;
    rig.schedule((0..2 * jobs).map(|n| {
        let mut arrival = arrival(n, 0, Duration::ZERO);
        arrival.message.content = Some(ContentRef::Inline("Subject: hello\n\nhello\n".to_owned()));
        arrival
    }))
    .await?;
    let tries = Arc::new(Tries::default());
    let there = Address::parse(&format!("jo@[{}]", server.address.ip()))?;
    let stop = CancellationToken::new();
    let started = Instant::now();
    let settings = config::model::Worker {
        concurrency: CONCURRENCY,
        ..Config::embedded().worker
    };
    let tasks: Vec<_> = (0..workers)
        .map(|_| {
            let sender = Counted {
                sender: sender_to(&server),
                there: there.clone(),
                tries: tries.clone(),
            };
            rig.start_worker_with(Arc::new(sender), settings.clone(), &stop)
        })
        .collect();
    let destination = Destination::named("d0.example");
    let mut progress = Progress::new(format!("limit {limit}, {workers} workers"), jobs);
    while tries.taken() < jobs && started.elapsed() < RUN_MAX {
        sleep(LOOK_EVERY).await;
        let pace = rig.store.pace(&destination).await?;
        let window = pace.window.unwrap_or_default();
        let breaker = if pace.breaker == BreakerState::Closed {
            ""
        } else {
            ", breaker open"
        };
        progress.show(
            tries.taken() as u64,
            &format!("{} deferred, window {window:.1}{breaker}", tries.deferred()),
        );
    }
    let (wall, busy) = (started.elapsed(), server.busy());
    let (attempts, deferred) = (tries.all() as f64, tries.deferred() as f64);
    stop.cancel();
    for task in tasks {
        task.await?;
    }
    let openings = openings(&rig.store).await?;
    rig.end().await;
    Ok(Found {
        deferred_percent: 100.0 * deferred / attempts,
        used_percent: 100.0 * busy.as_secs_f64() / (wall.as_secs_f64() * limit as f64),
        openings,
    })
}

/// A sender to mail hosts, for it is a host's 421 that says something of it, and not a relay's. No
/// DNS is asked: the server stands at its address.
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

/// How often a breaker opened, by the journal.
async fn openings(store: &Store) -> Result<f64> {
    const PAGE: usize = 1_000;
    let mut after = vec![EntryId::default(); usize::from(store.shards())];
    let mut openings = 0;
    loop {
        let pages = store.read_journal(&after, PAGE).await?;
        let mut any = false;
        for (after, page) in after.iter_mut().zip(pages) {
            if let Some(last) = page.last() {
                (*after, any) = (last.id, true);
            }
            let events = page.iter().flat_map(|entry| &entry.events);
            openings += events
                .filter(|event| event.kind == EventKind::BreakerOpened)
                .count();
        }
        if !any {
            return Ok(openings as f64);
        }
    }
}

/// What came of all attempts, of all workers.
#[derive(Debug, Default)]
struct Tries {
    all: AtomicU64,
    taken: AtomicU64,
    deferred: AtomicU64,
}

impl Tries {
    fn all(&self) -> usize {
        self.all.load(Ordering::Relaxed) as usize
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed) as usize
    }

    fn deferred(&self) -> usize {
        self.deferred.load(Ordering::Relaxed) as usize
    }
}

/// Sends over SMTP, and counts.
struct Counted {
    sender: MxSender,
    /// The recipient, whoever the job's is: at the server.
    there: Address,
    tries: Arc<Tries>,
}

#[async_trait]
impl Sender for Counted {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        let attempt = Attempt {
            recipient: self.there.clone(),
            ..attempt.clone()
        };
        let outcome = self.sender.send(&attempt).await;
        self.tries.all.fetch_add(1, Ordering::Relaxed);
        let result = match &outcome {
            Outcome::Delivered(_) | Outcome::Accepted(_) => &self.tries.taken,
            _ => &self.tries.deferred,
        };
        result.fetch_add(1, Ordering::Relaxed);
        outcome
    }
}
