//! Measures what traces cost a worker: `cycle` with and without them, in turn. The collector is a
//! thread of this process that takes all requests and reads none. Its CPU time is subtracted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use nix::sys::resource::{UsageWho, getrusage};
use telemetry::ids::IdHasher;
use telemetry::pipeline::{Pipeline, Process};
use telemetry::settings::{Protocol, Settings};
use telemetry::spans::Tracing;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::rig::{Cost, NoSender, Rig, arrival};
use super::{Figures, figures};

/// How often each of the two is measured in one run.
const PAIRS: usize = 3;

/// How many spans may wait. A bench is faster than any fleet, so this is more than the default.
const QUEUE_MAX: usize = 1_000_000;

/// Delivers `jobs` due jobs without traces and with them, in turn.
pub(crate) async fn traces(jobs: usize) -> Result<Figures> {
    let (mut plain, mut traced) = (Vec::new(), Vec::new());
    let mut dropped = 0;
    for _ in 0..PAIRS {
        plain.push(cycle(jobs, &Tracing::off(), None).await?);
        let sink = Sink::start()?;
        let settings = Settings {
            endpoint: Some(format!("http://{}", sink.address)),
            protocol: Some(Protocol::Http),
            logs: false,
            queue_max: QUEUE_MAX,
            ..Settings::default()
        };
        let process = Process {
            role: "bench",
            version: env!("CARGO_PKG_VERSION"),
            queue: "rd".to_owned(),
        };
        let pipeline = Pipeline::start(&settings, &process).map_err(|why| anyhow!(why))?;
        let tracing = pipeline.tracing(&settings, &process, IdHasher::new(b"bench"));
        traced.push(cycle(jobs, &tracing, Some((&sink, pipeline, &mut dropped))).await?);
    }
    let (plain, traced) = (median(&mut plain), median(&mut traced));
    Ok(figures([
        ("worker us per job", plain),
        ("worker us per job, traced", traced),
        ("more worker cpu, percent", 100.0 * (traced / plain - 1.0)),
        ("spans dropped", dropped as f64),
    ]))
}

/// Returns the CPU time of the worker per job, in microseconds, including the end of the pipeline.
async fn cycle(
    jobs: usize,
    tracing: &Tracing,
    collecting: Option<(&Sink, Pipeline, &mut u64)>,
) -> Result<f64> {
    let rig = Rig::new().await?;
    rig.schedule((0..jobs).map(|n| arrival(n, n % 1_000, Duration::ZERO)))
        .await?;
    let sender = Arc::new(NoSender::default());
    let stop = CancellationToken::new();
    let sink_before = collecting.as_ref().map_or(0, |(sink, ..)| sink.cpu_us());
    let start = rig.start().await?;
    let worker = rig.start_traced_worker(sender.clone(), &stop, tracing);
    sender.wait_for(jobs).await;
    stop.cancel();
    worker.await?;
    let mut of_sink = 0;
    if let Some((sink, pipeline, dropped)) = collecting {
        pipeline.flush();
        let (spans, _) = pipeline.lost();
        *dropped += spans.dropped + spans.failed;
        spawn_blocking(|| pipeline.shutdown()).await?;
        of_sink = sink.cpu_us() - sink_before;
    }
    let cost = rig.cost(&start).await?;
    rig.end().await;
    Ok(Cost::each(cost.own_cpu, jobs) - of_sink as f64 / jobs as f64)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A collector that answers each request with 200 and reads none.
struct Sink {
    address: SocketAddr,
    cpu_us: Arc<AtomicU64>,
}

impl Sink {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let cpu_us = Arc::new(AtomicU64::new(0));
        let counted = cpu_us.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = counted.clone();
                thread::spawn(move || serve(stream, &counted));
            }
        });
        Ok(Self { address, cpu_us })
    }

    fn cpu_us(&self) -> u64 {
        self.cpu_us.load(Ordering::Relaxed)
    }
}

/// Serves one connection until it is closed.
fn serve(stream: TcpStream, cpu_us: &AtomicU64) -> Option<()> {
    let mut answers = stream.try_clone().ok()?;
    let mut requests = BufReader::with_capacity(1 << 20, stream);
    let mut used = 0;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line.is_empty() {
                break;
            }
        }
        std::io::copy(&mut requests.by_ref().take(length), &mut std::io::sink()).ok()?;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n\
            content-length: 0\r\n\r\n";
        answers.write_all(answer).ok()?;
        let now = thread_cpu_us();
        cpu_us.fetch_add(now - used, Ordering::Relaxed);
        used = now;
    }
}

/// Returns the CPU time of the current thread, in microseconds.
fn thread_cpu_us() -> u64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) else {
        return 0;
    };
    let us = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    (us(usage.user_time()) + us(usage.system_time())) as u64
}
