//! How late jobs are claimed, under a steady load and beside a large backlog.

use std::time::Duration;

use anyhow::Result;
use shared::config::Config;
use shared::event::{Event, EventKind};
use shared::pace::Feedback;
use shared::store::claim::ClaimBounds;
use shared::store::settle::{End, SettleCall, Settlement};
use shared::tally::{Tally, TallyResult};
use tokio::time::{Instant, sleep};

use super::cycle::shard_of;
use super::rig::{BATCH, Rig, arrival, ms_after};
use super::{Figures, figures};

/// Jobs that fall due each second.
const RATE: usize = 5_000;

/// Over so many destinations.
const DESTINATIONS: usize = 1_000;

/// The destination with the backlog.
const CROWDED: usize = 1_000_000;

/// Lets `jobs` fall due at an even rate and measures claimed_at - due. `backlog` jobs at one more destination are due
/// from the start.
pub(crate) async fn lateness(jobs: usize, backlog: Option<usize>) -> Result<Figures> {
    let rig = Rig::new().await?;
    if let Some(backlog) = backlog {
        rig.schedule((0..backlog).map(|n| arrival(n, CROWDED, Duration::ZERO))).await?;
    }
    // Time enough to schedule all of them before the first falls due.
    let lead = Duration::from_secs(2 + jobs as u64 / 20_000);
    let started = Instant::now();
    let due_in = |n: usize| (lead + Duration::from_secs_f64(n as f64 / RATE as f64)).saturating_sub(started.elapsed());
    rig.schedule((0..jobs).map(|n| arrival(10_000_000 + n, n % DESTINATIONS, due_in(n)))).await?;
    let mut late = Vec::with_capacity(jobs);
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
                        if leased.lease.destination.shard(shards) != shard_of(CROWDED, shards)
                            || leased.lease.destination.as_str() != format!("d{CROWDED}.example")
                        {
                            late.push(ms_after(leased.claimed_at, leased.lease.due));
                        }
                        let job = &leased.job;
                        let last = Event::about(EventKind::JobClosed, &job.id, &job.head.destination);
                        let tally = Tally::new(TallyResult::Delivered, None, 1, job.head.created, leased.claimed_at);
                        Settlement {
                            lease: leased.lease,
                            end: End::Close,
                            delivered: true,
                            feedback: Feedback::Good,
                            tally,
                            events: Vec::new(),
                            last,
                        }
                    })
                    .collect();
                if !settlements.is_empty() {
                    rig.store.settle(SettleCall::unique(), &settlements).await?;
                }
            }
            next = next.min(*visit);
        }
        sleep(next.saturating_duration_since(Instant::now())).await;
    }
    rig.end().await;
    late.sort_unstable();
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize] as f64;
    Ok(figures([("ms late, p50", at(0.5)), ("ms late, p99", at(0.99)), ("ms late, most", at(1.0))]))
}
