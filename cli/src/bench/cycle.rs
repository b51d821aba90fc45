//! Measures the speed of the store and the worker: how fast jobs are scheduled, and how fast due
//! jobs are delivered.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use super::raw::{PAIRS, pairs_on};
use super::rig::{Cost, NoSender, Random, Rig, Zipf, arrival};
use super::{Figures, figures, round};

/// A delay so long that no job falls due while a bench runs.
const FAR: Duration = Duration::from_secs(30 * 86_400);

/// Schedules `jobs` jobs, spread evenly over `destinations` destinations.
pub(crate) async fn ingest(jobs: usize, destinations: usize) -> Result<Figures> {
    let rig = Rig::new().await?;
    let arrivals: Vec<_> = (0..jobs)
        .map(|n| arrival(n, n % destinations, FAR))
        .collect();
    let start = rig.start().await?;
    rig.schedule(arrivals.into_iter()).await?;
    let cost = rig.cost(&start).await?;
    rig.end().await;
    Ok(figures([
        ("jobs per second", cost.rate(jobs)),
        ("redis us per job", Cost::each(cost.redis_cpu, jobs)),
        ("own us per job", Cost::each(cost.own_cpu, jobs)),
    ]))
}

/// Delivers `jobs` due jobs. Zipf's law spreads them over `destinations` destinations.
pub(crate) async fn cycle(jobs: usize, destinations: usize) -> Result<Figures> {
    let rig = Rig::new().await?;
    let raw = pairs_on(&rig, PAIRS).await?;
    let mut random = Random::new(42);
    let zipf = Zipf::new(destinations);
    rig.schedule((0..jobs).map(|n| arrival(n, zipf.pick(random.next()), Duration::ZERO)))
        .await?;
    let cost = drain(&rig, NoSender::default(), jobs).await?;
    rig.end().await;
    let mut figures = figures_of(cost, jobs);
    figures.extend(compared_with_raw(cost, jobs, raw));
    Ok(figures)
}

/// Like `cycle` at a thousand destinations, but each job is deferred once by 1 to 1.5 s.
pub(crate) async fn retry(jobs: usize) -> Result<Figures> {
    let rig = Rig::new().await?;
    rig.schedule((0..jobs).map(|n| arrival(n, n % 1_000, Duration::ZERO)))
        .await?;
    let cost = drain(&rig, NoSender::deferring(), jobs).await?;
    rig.end().await;
    Ok(figures_of(cost, jobs))
}

/// Measures the rate of `cycle` at a thousand destinations, with a larger backlog each time. All
/// pending jobs are due, and their number never falls below the backlog.
pub(crate) async fn backlog(jobs: usize, largest: usize) -> Result<Figures> {
    let rig = Rig::new().await?;
    let (mut scheduled, mut settled) = (0, 0);
    let mut costs = Vec::new();
    for pending in [largest / 50, largest / 5, largest] {
        let end = settled + pending + jobs;
        rig.schedule((scheduled..end).map(|n| arrival(n, n % 1_000, Duration::ZERO)))
            .await?;
        scheduled = end;
        let (cost, done) = drain_some(&rig, NoSender::default(), jobs).await?;
        settled += done;
        costs.push((pending, cost.rate(done), Cost::each(cost.redis_cpu, done)));
    }
    rig.end().await;
    let mut list = Figures::new();
    for (pending, rate, redis) in &costs {
        let pending = round(*pending as f64);
        list.extend(figures([
            (&format!("jobs/s, {pending} pending"), *rate),
            (&format!("redis us/job, {pending} pending"), *redis),
        ]));
    }
    list.extend(figures([(
        "rate at the most / at the least, percent",
        100.0 * costs[2].1 / costs[0].1,
    )]));
    Ok(list)
}

/// Lets a worker deliver all jobs in the store. There are `jobs` of them. Returns the cost.
async fn drain(rig: &Rig, sender: NoSender, jobs: usize) -> Result<Cost> {
    Ok(drain_some(rig, sender, jobs).await?.0)
}

/// Lets a worker deliver at least `jobs` of the jobs in the store. Returns the cost, and how many
/// jobs were delivered. There can be more than `jobs`, because attempts under way are finished.
async fn drain_some(rig: &Rig, sender: NoSender, jobs: usize) -> Result<(Cost, usize)> {
    let sender = Arc::new(sender);
    let stop = CancellationToken::new();
    let start = rig.start().await?;
    let worker = rig.start_worker(sender.clone(), &stop);
    sender.wait_for(jobs).await;
    // Stopping the worker is part of the work: the last jobs are settled only at its end.
    stop.cancel();
    worker.await?;
    Ok((rig.cost(&start).await?, sender.delivered()))
}

fn figures_of(cost: Cost, jobs: usize) -> Figures {
    figures([
        ("jobs per second", cost.rate(jobs)),
        ("redis us per job", Cost::each(cost.redis_cpu, jobs)),
        ("worker us per job", Cost::each(cost.own_cpu, jobs)),
    ])
}

/// Returns a cost as a percentage of the upper limit of what Redis can do (`raw`), once by wall
/// time and once by the CPU time of Redis.
fn compared_with_raw(cost: Cost, jobs: usize, raw: Cost) -> Figures {
    let by_cpu = Cost::each(raw.redis_cpu, PAIRS) / Cost::each(cost.redis_cpu, jobs);
    figures([
        (
            "of the raw limit, percent",
            100.0 * cost.rate(jobs) / raw.rate(PAIRS),
        ),
        ("of it by redis cpu, percent", 100.0 * by_cpu),
    ])
}
