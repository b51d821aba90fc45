//! Measures how fast a scheduler accepts bounces over HTTP. The scheduler runs as its own process
//! over the bench's Redis, and a client posts NDJSON over several connections. All three share the
//! machine, so the CPU time of each is reported.

use anyhow::{Context, Result, ensure};
use reqwest::{Client, header};

use super::rig::{Cost, Rig};
use super::{Figures, figures};

mod bodies;
mod server;

use bodies::Bodies;
use server::Server;

/// How many lines one request has at most.
const LINES_MAX: usize = 100_000;

/// How many lines are posted before the measurement starts. After them, scripts are loaded,
/// connections are open, and the domains of most bounces have been assigned to a destination.
const WARM_UP_LINES: usize = 40_000;

/// How many connections the client uses. Each has one request under way.
const CONNECTIONS: usize = 4;

/// The start of the answer to a bounce that started a job.
const SCHEDULED: &[u8] = br#"{"answer":"scheduled""#;

/// Posts `bounces` bounces. Zipf's law spreads them over `domains` domains.
pub(crate) async fn http(bounces: usize, domains: usize) -> Result<Figures> {
    let rig = Rig::new().await?;
    let server = Server::start(&rig.url()).await?;
    let bodies = Bodies::new(domains);
    let client = Client::builder().build()?;
    let warm_up = bodies.body(0..WARM_UP_LINES);
    post(&client, &server, warm_up, WARM_UP_LINES).await?;

    let requests = bounces.div_ceil(LINES_MAX).max(CONNECTIONS);
    let lines = bounces.div_ceil(requests);
    let mut waiting: Vec<Vec<u8>> = (0..requests)
        .map(|n| {
            let first = WARM_UP_LINES + n * lines;
            bodies.body(first..first + lines)
        })
        .collect();
    let bytes: usize = waiting.iter().map(Vec::len).sum();
    let mut shares: Vec<Vec<Vec<u8>>> = (0..CONNECTIONS).map(|_| Vec::new()).collect();
    for n in 0..requests {
        shares[n % CONNECTIONS].extend(waiting.pop());
    }
    let memory_before = server.peak_memory()?;
    let server_before = server.cpu()?;
    let start = rig.start().await?;
    let posting = shares.into_iter().map(async |share| {
        for body in share {
            post(&client, &server, body, lines).await?;
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(posting).await?;
    let cost = rig.cost(&start).await?;
    let server_cpu = server.cpu()?.saturating_sub(server_before);
    let memory = server.peak_memory()?;
    server.stop().await?;
    rig.end().await;

    let bounces = requests * lines;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let redis_us = Cost::each(cost.redis_cpu, bounces);
    let all_us = redis_us + Cost::each(server_cpu, bounces) + Cost::each(cost.own_cpu, bounces);
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    Ok(figures([
        ("bounces per second", cost.rate(bounces)),
        // The rate on a machine without other load, computed from CPU times. Redis uses at most
        // one core.
        (
            "bounces per second by CPU time",
            (cores * 1e6 / all_us).min(1e6 / redis_us),
        ),
        ("scheduler us per bounce", Cost::each(server_cpu, bounces)),
        ("redis us per bounce", redis_us),
        ("client us per bounce", Cost::each(cost.own_cpu, bounces)),
        ("bytes per bounce", bytes as f64 / bounces as f64),
        ("scheduler's peak memory before, MiB", mib(memory_before)),
        ("scheduler's peak memory, MiB", mib(memory)),
    ]))
}

/// Posts one body, and verifies that each of its `lines` bounces was scheduled.
async fn post(client: &Client, server: &Server, body: Vec<u8>, lines: usize) -> Result<()> {
    let request = client
        .post(server.url())
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(body);
    let response = request
        .send()
        .await
        .context("the bench's own scheduler does not answer")?;
    let status = response.status();
    let answers = response.bytes().await?;
    let scheduled = answers
        .split(|byte| *byte == b'\n')
        .filter(|line| line.starts_with(SCHEDULED))
        .count();
    ensure!(
        scheduled == lines,
        "of {lines} bounces {scheduled} were scheduled; the scheduler answers {status}"
    );
    Ok(())
}
