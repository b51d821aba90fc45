//! How late a worker claims jobs: under a steady load, and while a large backlog is due. The lateness
//! of each job is read from the journal.

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

/// Jobs that fall due each second.
const RATE: usize = 5_000;

/// Over so many destinations.
const DESTINATIONS: usize = 1_000;

/// The two destinations with a backlog: one that gets what it can take, and one that an operator
/// allows little.
const CROWDED: usize = 1_000_000;
const THROTTLED: usize = 1_000_001;

/// Attempts that the worker may have under way.
const CONCURRENCY: usize = 1_024;

/// How often the journal is read, and how many entries of each shard at a time.
const LOOK: Duration = Duration::from_secs(1);
const ENTRIES: usize = 100;

/// What the throttled one may get: ten attempts per second.
const LITTLE: PaceLimits = PaceLimits {
    rate: 10.0,
    burst: 10.0,
    window: 200,
};

/// Lets `jobs` fall due at an even rate.
pub(crate) async fn lateness(jobs: usize) -> Result<Figures> {
    let late = Late::measured(jobs, 0).await?;
    Ok(figures([
        ("ms late, p50", late.at(0.5)),
        ("ms late, p99", late.at(0.99)),
        ("ms late, most", late.at(1.0)),
    ]))
}

/// The same alone, and beside two destinations with a `backlog` each.
pub(crate) async fn skew(jobs: usize, backlog: usize) -> Result<Figures> {
    let alone = Late::measured(jobs, 0).await?;
    let beside = Late::measured(jobs, backlog).await?;
    Ok(figures([
        ("jobs in each backlog", backlog as f64),
        ("alone: ms late, p50", alone.at(0.5)),
        ("alone: ms late, p99", alone.at(0.99)),
        ("beside: ms late, p50", beside.at(0.5)),
        ("beside: ms late, p99", beside.at(0.99)),
        (
            "p99 beside / alone",
            beside.at(0.99) / alone.at(0.99).max(1.0),
        ),
        ("backlog settled per second", beside.backlog_rate),
        ("left of the unthrottled backlog", beside.backlog_left),
    ]))
}

/// How late each job was claimed, in ms and in order.
struct Late {
    ms: Vec<i64>,
    /// What the backlogs got meanwhile.
    backlog_rate: f64,
    /// How many jobs of the unthrottled one still waited at the end: if there are none, the
    /// backlog was too small.
    backlog_left: f64,
}

impl Late {
    fn at(&self, share: f64) -> f64 {
        self.ms[((self.ms.len() - 1) as f64 * share) as usize] as f64
    }

    /// Measures claimed_at - due of `jobs`, by what a worker with the settings that ship, but for
    /// its size, makes of them. As many jobs as `backlog` says are due from the start at each of
    /// two more destinations.
    async fn measured(jobs: usize, backlog: usize) -> Result<Self> {
        let rig = Rig::new().await?;
        let crowded = [CROWDED, THROTTLED].map(|n| Destination::named(format!("d{n}.example")));
        rig.store.override_limits(&crowded[1], Some(LITTLE)).await?;
        rig.schedule((0..2 * backlog).map(|n| arrival(n, CROWDED + n % 2, Duration::ZERO)))
            .await?;
        // Time enough to schedule all of them before the first falls due.
        let lead = Duration::from_secs(2 + jobs as u64 / 5_000);
        let started = Instant::now();
        let due_in = |n: usize| {
            (lead + Duration::from_secs_f64(n as f64 / RATE as f64))
                .saturating_sub(started.elapsed())
        };
        rig.schedule((0..jobs).map(|n| arrival(10_000_000 + n, n % DESTINATIONS, due_in(n))))
            .await?;
        // What was scheduled is no news any more, and would only be in the way.
        rig.store.trim_journal(Duration::ZERO).await?;
        // Not before: a backlog that is worked off while nothing falls due is in nobody's way.
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
            sleep(LOOK).await;
            delivered.read(&rig, &crowded).await?;
            progress.show(delivered.late.len() as u64, "");
        }
        let backlog_rate = delivered.besides as f64 / claiming.elapsed().as_secs_f64();
        let backlog_left = rig.store.waiting(&crowded[0]).await?.jobs as f64;
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

/// What the journal says of messages that got through.
struct Delivered {
    cursor: Vec<EntryId>,
    /// How late, in ms, those were that fell due meanwhile.
    late: Vec<i64>,
    /// How many were of the backlogs.
    besides: usize,
}

impl Delivered {
    fn since(cursor: Vec<EntryId>) -> Self {
        Self {
            cursor,
            late: Vec::new(),
            besides: 0,
        }
    }

    /// Reads on to the end.
    async fn read(&mut self, rig: &Rig, crowded: &[Destination]) -> Result<()> {
        loop {
            let journals = rig.store.read_journal(&self.cursor, ENTRIES).await?;
            if journals.iter().all(Vec::is_empty) {
                return Ok(());
            }
            for (place, journal) in self.cursor.iter_mut().zip(&journals) {
                *place = journal.last().map_or(*place, |entry| entry.id);
            }
            let events = journals.iter().flatten().flat_map(|entry| &entry.events);
            for event in events.filter(|event| event.kind == EventKind::MessageDelivered) {
                if event
                    .destination
                    .as_ref()
                    .is_some_and(|place| crowded.contains(place))
                {
                    self.besides += 1;
                } else {
                    self.late.extend(event.late_ms);
                }
            }
        }
    }
}
