//! Measures how late the jobs of a small account are claimed at a destination with a rate limit:
//! alone, and next to a backlog of another account.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use config::model::Config;
use domain::account::Account;
use domain::destination::Destination;
use domain::event::EventKind;
use domain::pace::PaceLimits;
use store::entry_id::EntryId;
use store::schedule::Arrival;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::rig::{BATCH, NoSender, Rig, arrival};
use super::{Figures, figures};
use crate::progress::Progress;

/// The limits of the destination: 500 attempts per second.
const LIMITS: PaceLimits = PaceLimits {
    rate: 500.0,
    burst: 1.0,
    window: 200,
};

/// How many jobs the small account has, and the time from one to the next. So each of them is the
/// only one of its account that is due.
const SMALL_JOBS: usize = 12;
const INTERVAL: Duration = Duration::from_secs(1);

/// The time before the first of them is due. The worker starts within it.
const LEAD: Duration = Duration::from_secs(5);

/// How often the journal is read, and how many entries of each shard are read at a time.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
const ENTRIES: usize = 100;

/// Measures the small account alone, and then next to another account with a `backlog`. A job may
/// be late by twice as much as alone, or by 50 ms more, whichever is more.
pub(crate) async fn sharing(backlog: usize) -> Result<Figures> {
    let (alone, _) = measure(0).await?;
    let (beside, left) = measure(backlog).await?;
    let most = |late: &[i64]| late.last().copied().unwrap_or_default() as f64;
    let p50 = |late: &[i64]| late.get(late.len() / 2).copied().unwrap_or_default() as f64;
    let bound = (2.0 * most(&alone)).max(most(&alone) + 50.0);
    Ok(figures([
        ("jobs in the backlog", backlog as f64),
        ("alone: ms late, p50", p50(&alone)),
        ("alone: ms late, most", most(&alone)),
        ("beside: ms late, p50", p50(&beside)),
        ("beside: ms late, most", most(&beside)),
        (
            "beside: ms beyond the bound",
            (most(&beside) - bound).max(0.0),
        ),
        ("left of the backlog", left),
    ]))
}

/// Returns the lateness of each job of the small account in ms, sorted, and how many jobs of the
/// backlog still waited at the end. If none did, the backlog was too small.
async fn measure(backlog: usize) -> Result<(Vec<i64>, f64)> {
    let rig = Rig::new().await?;
    let destination = Destination::named("d0.example");
    rig.store
        .override_limits(&destination, Some(LIMITS))
        .await?;
    let of_account = |account: &str, n: usize, delay| -> Result<Arrival> {
        let mut arrival = arrival(n, 0, delay);
        arrival.job.account = Account::parse(account)?;
        Ok(arrival)
    };
    let started = Instant::now();
    let mut jobs = Vec::with_capacity(backlog + SMALL_JOBS);
    for n in 0..backlog {
        jobs.push(of_account("big", n, Duration::ZERO)?);
    }
    for n in 0..SMALL_JOBS {
        let delay = LEAD + INTERVAL * u32::try_from(n)?;
        jobs.push(of_account("small", 10_000_000 + n, delay)?);
    }
    rig.schedule(jobs.into_iter()).await?;
    // The events of scheduling are not needed.
    rig.store.trim_journal(Duration::ZERO).await?;
    let mut cursor = rig.store.journal_ends().await?;
    sleep(LEAD.saturating_sub(started.elapsed() + INTERVAL)).await;
    let stop = CancellationToken::new();
    let settings = config::model::Worker {
        batch: BATCH,
        ..Config::embedded().worker
    };
    let worker = rig.start_worker_with(Arc::new(NoSender::default()), settings, &stop);
    let mut late = Vec::new();
    let mut progress = Progress::new("claiming", SMALL_JOBS);
    while late.len() < SMALL_JOBS {
        sleep(POLL_INTERVAL).await;
        read(&rig, &mut cursor, &mut late).await?;
        progress.show(late.len() as u64, "");
    }
    let left = rig.store.waiting(&destination).await?.jobs as f64;
    stop.cancel();
    worker.await?;
    rig.end().await;
    late.sort_unstable();
    Ok((late, left))
}

/// Reads from the cursor to the end of the journal. Adds the lateness of each delivered job of the
/// small account.
async fn read(rig: &Rig, cursor: &mut [EntryId], late: &mut Vec<i64>) -> Result<()> {
    loop {
        let journals = rig.store.read_journal(cursor, ENTRIES).await?;
        if journals.iter().all(Vec::is_empty) {
            return Ok(());
        }
        for (position, journal) in cursor.iter_mut().zip(&journals) {
            *position = journal.last().map_or(*position, |entry| entry.id);
        }
        let events = journals.iter().flatten().flat_map(|entry| &entry.events);
        let delivered = events.filter(|event| {
            event.kind == EventKind::MessageDelivered && event.job.starts_with("small/")
        });
        late.extend(delivered.filter_map(|event| event.late_ms));
    }
}
