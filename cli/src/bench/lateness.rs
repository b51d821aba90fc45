//! How late jobs are claimed, under a steady load and beside a large backlog.

use std::time::Duration;

use anyhow::Result;
use shared::config::Config;
use shared::event::{Event, EventKind, EventLines};
use shared::pace::{Feedback, PaceLimits};
use shared::placement::Destination;
use shared::store::claim::ClaimBounds;
use shared::store::settle::{End, SettleCall, Settlement};
use shared::tally::{Tally, TallyResult};
use tokio::time::{Instant, sleep};

use super::rig::{BATCH, Rig, arrival, ms_after};
use super::{Figures, figures};
use crate::progress::Progress;

/// Jobs that fall due each second.
const RATE: usize = 5_000;

/// Over so many destinations.
const DESTINATIONS: usize = 1_000;

/// The two destinations with a backlog: one that gets what it can take, and one that an operator allows little.
const CROWDED: usize = 1_000_000;
const THROTTLED: usize = 1_000_001;

/// What the throttled one may get: ten attempts per second.
const LITTLE: PaceLimits = PaceLimits { rate: 10.0, burst: 10.0, window: 200 };

/// Lets `jobs` fall due at an even rate.
pub(crate) async fn lateness(jobs: usize) -> Result<Figures> {
    let late = Late::measured(jobs, 0).await?;
    Ok(figures([("ms late, p50", late.at(0.5)), ("ms late, p99", late.at(0.99)), ("ms late, most", late.at(1.0))]))
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
        ("p99 beside / alone", beside.at(0.99) / alone.at(0.99).max(1.0)),
        ("backlog settled per second", beside.backlog_rate),
        ("left of the unthrottled backlog", beside.backlog_left),
    ]))
}

/// How late each job was claimed, in ms and in order.
struct Late {
    ms: Vec<i64>,
    /// What the backlogs got meanwhile.
    backlog_rate: f64,
    /// How many jobs of the unthrottled one still waited at the end: where there are none, it was too small.
    backlog_left: f64,
}

impl Late {
    fn at(&self, share: f64) -> f64 {
        self.ms[((self.ms.len() - 1) as f64 * share) as usize] as f64
    }

    /// Measures claimed_at - due of `jobs`. As many jobs as `backlog` says are due from the start at each of two more
    /// destinations.
    async fn measured(jobs: usize, backlog: usize) -> Result<Self> {
        let rig = Rig::new().await?;
        let crowded = [CROWDED, THROTTLED].map(|n| Destination::named(format!("d{n}.example")));
        rig.store.override_limits(&crowded[1], Some(LITTLE)).await?;
        rig.schedule((0..2 * backlog).map(|n| arrival(n, CROWDED + n % 2, Duration::ZERO))).await?;
        // Time enough to schedule all of them before the first falls due.
        let lead = Duration::from_secs(2 + jobs as u64 / 5_000);
        let started = Instant::now();
        let due_in =
            |n: usize| (lead + Duration::from_secs_f64(n as f64 / RATE as f64)).saturating_sub(started.elapsed());
        rig.schedule((0..jobs).map(|n| arrival(10_000_000 + n, n % DESTINATIONS, due_in(n)))).await?;
        // Not before: a backlog that is worked off while nothing falls due is in nobody's way.
        sleep(lead.saturating_sub(started.elapsed() + Duration::from_millis(100))).await;
        let (mut late, mut besides) = (Vec::with_capacity(jobs), 0_usize);
        let mut progress = Progress::new("claiming", jobs);
        let claiming = Instant::now();
        let bounds = ClaimBounds { batch: BATCH, share: 64, lease: Duration::from_secs(60) };
        let longest = Config::embedded().worker.poll_max;
        let shards = rig.store.shards();
        let mut visits = vec![Instant::now(); usize::from(shards)];
        while late.len() < jobs {
            let mut next = Instant::now() + longest;
            for shard in 0..shards {
                let visit = &mut visits[usize::from(shard)];
                if *visit <= Instant::now() {
                    let claimed = rig.store.claim(shard, bounds).await?;
                    let wait = claimed.next_visit.map_or(longest, |at| at.since(claimed.now)).min(longest);
                    *visit = Instant::now() + wait;
                    let settlements: Vec<Settlement> = claimed
                        .jobs
                        .into_iter()
                        .map(|leased| {
                            if crowded.contains(&leased.lease.destination) {
                                besides += 1;
                            } else {
                                late.push(ms_after(leased.claimed_at, leased.lease.due));
                            }
                            let job = &leased.job;
                            let id = leased.lease.job.clone();
                            let mut events = EventLines::default();
                            events.push(&Event::about(EventKind::JobClosed, id, &job.head.destination));
                            let tally =
                                Tally::new(TallyResult::Delivered, None, 1, job.head.created, leased.claimed_at);
                            Settlement {
                                lease: leased.lease,
                                end: End::Close,
                                delivered: true,
                                feedback: Feedback::Good,
                                tally,
                                events,
                            }
                        })
                        .collect();
                    if !settlements.is_empty() {
                        rig.store.settle(SettleCall::unique(), &settlements).await?;
                    }
                }
                next = next.min(*visit);
            }
            progress.show(late.len() as u64, "");
            sleep(next.saturating_duration_since(Instant::now())).await;
        }
        let backlog_rate = besides as f64 / claiming.elapsed().as_secs_f64();
        let backlog_left = rig.store.waiting(&crowded[0]).await?.jobs as f64;
        rig.end().await;
        late.sort_unstable();
        Ok(Self { ms: late, backlog_rate, backlog_left })
    }
}
