//! The store's and the worker's speed: taking jobs in, and bringing them from due to delivered.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use super::raw::{PAIRS, pairs_on};
use super::rig::{Cost, NoSender, Random, Rig, arrival};
use super::{Figures, figures};

/// Far enough away not to fall due while a bench runs.
const FAR: Duration = Duration::from_secs(30 * 86_400);

/// Schedules `jobs`, shared evenly between so many destinations.
pub(crate) async fn ingest(jobs: usize, destinations: usize) -> Result<Figures> {
    let rig = Rig::new().await?;
    let arrivals: Vec<_> = (0..jobs).map(|n| arrival(n, n % destinations, FAR)).collect();
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

/// Brings `jobs` due jobs at so many destinations to delivered.
pub(crate) async fn cycle(jobs: usize, destinations: usize) -> Result<Figures> {
    let rig = Rig::new().await?;
    let raw = pairs_on(&rig, PAIRS).await?;
    let mut random = Random::new(42);
    let zipf = Zipf::new(destinations);
    rig.schedule((0..jobs).map(|n| arrival(n, zipf.pick(random.next()), Duration::ZERO))).await?;
    let cost = drain(&rig, NoSender::default(), jobs).await?;
    rig.end().await;
    let mut figures = figures_of(cost, jobs);
    figures.extend(in_proportion(cost, jobs, raw));
    Ok(figures)
}

/// The same at a thousand destinations, where each job is deferred once by about a second.
pub(crate) async fn retry(jobs: usize) -> Result<Figures> {
    let rig = Rig::new().await?;
    rig.schedule((0..jobs).map(|n| arrival(n, n % 1_000, Duration::ZERO))).await?;
    let cost = drain(&rig, NoSender::deferring(), jobs).await?;
    rig.end().await;
    Ok(figures_of(cost, jobs))
}

/// The cycle's rate at a thousand destinations while more and more other jobs wait.
pub(crate) async fn backlog(jobs: usize) -> Result<Figures> {
    let rig = Rig::new().await?;
    let mut waiting = 0;
    let mut rates = Vec::new();
    for backlog in [100_000, 1_000_000, 5_000_000] {
        rig.schedule((waiting..backlog).map(|n| arrival(n, n % 1_000, FAR))).await?;
        waiting = backlog;
        let first = 10_000_000 + backlog;
        rig.schedule((first..first + jobs).map(|n| arrival(n, n % 1_000, Duration::ZERO))).await?;
        let cost = drain(&rig, NoSender::default(), jobs).await?;
        rates.push((cost.rate(jobs), Cost::each(cost.redis_cpu, jobs)));
    }
    rig.end().await;
    Ok(figures([
        ("jobs/s beside 100 k", rates[0].0),
        ("jobs/s beside 1 M", rates[1].0),
        ("jobs/s beside 5 M", rates[2].0),
        ("redis us/job beside 100 k", rates[0].1),
        ("redis us/job beside 5 M", rates[2].1),
        ("rate 5 M / 100 k, percent", 100.0 * rates[2].0 / rates[0].0),
    ]))
}

async fn drain(rig: &Rig, sender: NoSender, jobs: usize) -> Result<Cost> {
    let sender = Arc::new(sender);
    let stop = CancellationToken::new();
    let start = rig.start().await?;
    let worker = rig.start_worker(sender.clone(), &stop);
    sender.wait_for(jobs).await;
    // The drain belongs to it: only then is the last of them settled.
    stop.cancel();
    worker.await?;
    rig.cost(&start).await
}

fn figures_of(cost: Cost, jobs: usize) -> Figures {
    figures([
        ("jobs per second", cost.rate(jobs)),
        ("redis us per job", Cost::each(cost.redis_cpu, jobs)),
        ("worker us per job", Cost::each(cost.own_cpu, jobs)),
    ])
}

/// How near that comes to what Redis could do at best, by the clock and by Redis's own CPU time.
fn in_proportion(cost: Cost, jobs: usize, raw: Cost) -> Figures {
    let by_cpu = Cost::each(raw.redis_cpu, PAIRS) / Cost::each(cost.redis_cpu, jobs);
    figures([
        ("of the raw limit, percent", 100.0 * cost.rate(jobs) / raw.rate(PAIRS)),
        ("of it by redis cpu, percent", 100.0 * by_cpu),
    ])
}

/// Zipf's law with exponent 1: the destination of rank r is r times as rare as the first.
struct Zipf {
    cumulated: Vec<f64>,
}

impl Zipf {
    fn new(ranks: usize) -> Self {
        let mut sum = 0.0;
        let cumulated = (1..=ranks).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self { cumulated: cumulated.collect() }
    }

    fn pick(&self, uniform: f64) -> usize {
        let last = self.cumulated.last().copied().unwrap_or_default();
        self.cumulated.partition_point(|sum| *sum < uniform * last)
    }
}
