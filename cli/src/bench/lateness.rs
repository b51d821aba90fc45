//! Measures how late a worker claims jobs: under a steady load, and while a large backlog is due.
//! The lateness of each job is read from the journal.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use config::model::Config;
use domain::destination::Destination;
use domain::event::EventKind;
use domain::pace::PaceLimits;
use store::entry_id::EntryId;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::rig::{BATCH, NoSender, Rig, arrival};
use super::{Figures, figures};
use crate::progress::Progress;

/// How many jobs fall due each second.
const RATE: usize = 5_000;

/// The number of destinations of these jobs.
const DESTINATIONS: usize = 1_000;

/// The numbers of the two destinations with a backlog: one with the usual pace, and one that is
/// throttled.
const UNTHROTTLED: usize = 1_000_000;
const THROTTLED: usize = 1_000_001;

/// How many attempts the worker may have under way.
const CONCURRENCY: usize = 1_024;

/// How often the journal is read, and how many entries of each shard are read at a time.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const ENTRIES: usize = 100;

/// The limits of the throttled destination: ten attempts per second.
const THROTTLED_LIMITS: PaceLimits = PaceLimits {
    rate: 10.0,
    burst: 10.0,
    window: 200,
};

/// Measures lateness while `jobs` jobs fall due at an even rate.
pub(crate) async fn lateness(jobs: usize) -> Result<Figures> {
    let late = Late::measure(jobs, 0).await?;
    Ok(figures([
        ("ms late, p50", late.at(0.5)),
        ("ms late, p99", late.at(0.99)),
        ("ms late, most", late.at(1.0)),
    ]))
}

/// Measures lateness alone, and then with two more destinations that have a `backlog` each.
pub(crate) async fn skew(jobs: usize, backlog: usize) -> Result<Figures> {
    let alone = Late::measure(jobs, 0).await?;
    let loaded = Late::measure(jobs, backlog).await?;
    Ok(figures([
        ("jobs in each backlog", backlog as f64),
        ("alone: ms late, p50", alone.at(0.5)),
        ("alone: ms late, p99", alone.at(0.99)),
        ("beside: ms late, p50", loaded.at(0.5)),
        ("beside: ms late, p99", loaded.at(0.99)),
        (
            "p99 beside / alone",
            loaded.at(0.99) / alone.at(0.99).max(1.0),
        ),
        ("backlog settled per second", loaded.backlog_rate),
        ("left of the unthrottled backlog", loaded.backlog_left),
    ]))
}

/// How late the jobs were claimed.
struct Late {
    /// The lateness of each job in ms, sorted.
    ms: Vec<i64>,
    /// How many jobs of the backlogs were delivered per second meanwhile.
    backlog_rate: f64,
    /// How many jobs of the unthrottled backlog still waited at the end. If it is 0, the backlog
    /// was too small.
    backlog_left: f64,
}

impl Late {
    /// Returns the lateness that this share of the jobs does not exceed, in ms.
    fn at(&self, share: f64) -> f64 {
        self.ms[((self.ms.len() - 1) as f64 * share) as usize] as f64
    }

    /// Measures `claimed_at - due` of `jobs` jobs. The worker has the default settings, except for
    /// its concurrency and batch size. At each of the two destinations with a backlog, `backlog`
    /// jobs are due from the start.
    async fn measure(jobs: usize, backlog: usize) -> Result<Self> {
        let rig = Rig::new().await?;
        let with_backlog = [UNTHROTTLED, THROTTLED];
        let with_backlog = with_backlog.map(|n| Destination::named(format!("d{n}.example")));
        let limits = Some(THROTTLED_LIMITS);
        rig.store.override_limits(&with_backlog[1], limits).await?;
        rig.schedule((0..2 * backlog).map(|n| arrival(n, UNTHROTTLED + n % 2, Duration::ZERO)))
            .await?;
        // Enough time to schedule all jobs before the first falls due.
        let lead = Duration::from_secs(2 + jobs as u64 / 5_000);
        let started = Instant::now();
        let due_in = |n: usize| {
            (lead + Duration::from_secs_f64(n as f64 / RATE as f64))
                .saturating_sub(started.elapsed())
        };
        rig.schedule((0..jobs).map(|n| arrival(10_000_000 + n, n % DESTINATIONS, due_in(n))))
            .await?;
        // The events of scheduling are not needed, and would slow down reading.
        rig.store.trim_journal(Duration::ZERO).await?;
        // The worker starts just before the first job falls due. Before that, the backlogs could
        // delay no measured job.
        sleep(lead.saturating_sub(started.elapsed() + Duration::from_millis(100))).await;
        let claiming = Instant::now();
        let stop = CancellationToken::new();
        let settings = config::model::Worker {
            concurrency: CONCURRENCY,
            batch: BATCH,
            ..Config::embedded().worker
        };
        let worker = rig.start_worker_with(Arc::new(NoSender::default()), settings, &stop);
        let mut delivered = Delivered::since(rig.store.journal_ends().await?);
        let mut progress = Progress::new("claiming", jobs);
        while delivered.late.len() < jobs {
            sleep(POLL_INTERVAL).await;
            delivered.read(&rig, &with_backlog).await?;
            progress.show(delivered.late.len() as u64, "");
        }
        let backlog_rate = delivered.from_backlogs as f64 / claiming.elapsed().as_secs_f64();
        let backlog_left = rig.store.waiting(&with_backlog[0]).await?.jobs as f64;
        stop.cancel();
        worker.await?;
        rig.end().await;
        let mut late = delivered.late;
        late.sort_unstable();
        Ok(Self {
            ms: late,
            backlog_rate,
            backlog_left,
        })
    }
}

/// The deliveries that the journal has recorded so far.
struct Delivered {
    cursor: Vec<EntryId>,
    /// The lateness, in ms, of each delivered job that belongs to no backlog.
    late: Vec<i64>,
    /// How many jobs of the backlogs were delivered.
    from_backlogs: usize,
}

impl Delivered {
    fn since(cursor: Vec<EntryId>) -> Self {
        Self {
            cursor,
            late: Vec::new(),
            from_backlogs: 0,
        }
    }

    /// Reads from the cursor to the end of the journal.
    async fn read(&mut self, rig: &Rig, with_backlog: &[Destination]) -> Result<()> {
        loop {
            let journals = rig.store.read_journal(&self.cursor, ENTRIES).await?;
            if journals.iter().all(Vec::is_empty) {
                return Ok(());
            }
            for (position, journal) in self.cursor.iter_mut().zip(&journals) {
                *position = journal.last().map_or(*position, |entry| entry.id);
            }
            let events = journals.iter().flatten().flat_map(|entry| &entry.events);
            for event in events.filter(|event| event.kind == EventKind::MessageDelivered) {
                if event
                    .destination
                    .as_ref()
                    .is_some_and(|destination| with_backlog.contains(destination))
                {
                    self.from_backlogs += 1;
                } else {
                    self.late.extend(event.late_ms);
                }
            }
        }
    }
}
