//! Measures what traces cost a worker: `cycle` with and without them, in turn, and with collectors
//! that hang, refuse or are missing. A collector is a thread of this process that keeps nothing of
//! a request. Its CPU time is subtracted. If nothing is traced, what is left of the calls is too
//! fast to see in a cycle, so it is measured alone.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use domain::outcome::Outcome;
use domain::reply::Reply;
use nix::sys::resource::{UsageWho, getrusage};
use telemetry::ids::IdHasher;
use telemetry::pipeline::{Pipeline, Process};
use telemetry::settings::{Protocol, Settings};
use telemetry::spans::{Judged, Starting, Tracing};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::rig::{Cost, NoSender, Rig, arrival};
use super::{Figures, figures};

/// How often each cycle is measured in one run.
const ROUNDS: usize = 3;

/// How many spans may wait. A bench is faster than any fleet, so this is more than the default.
const QUEUE_MAX: usize = 1_000_000;

/// How many jobs are measured without traces and without a cycle.
const JOBS_OFF: usize = 1_000_000;

/// What there is where traces are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Collector {
    /// It takes all requests.
    Takes,
    /// It accepts connections and never answers.
    Hangs,
    /// It answers 503.
    Refuses,
    /// There is none.
    Missing,
}

/// The collectors that take nothing, and the words for them.
const TAKING_NOTHING: [(Collector, &str); 3] = [
    (Collector::Hangs, "hanging"),
    (Collector::Refuses, "refusing"),
    (Collector::Missing, "missing"),
];

/// What one cycle took.
#[derive(Clone, Copy, Debug)]
struct Cycle {
    /// The CPU time of the worker per job, in microseconds.
    us_per_job: f64,
    jobs_per_second: f64,
    /// Spans that the collector did not get.
    lost: u64,
    /// How long the end of the pipeline took, in milliseconds.
    end_ms: f64,
}

/// Delivers `jobs` due jobs without traces, with them, and with collectors that take nothing, in
/// turn.
pub(crate) async fn traces(jobs: usize) -> Result<Figures> {
    let (mut plain, mut traced) = (Vec::new(), Vec::new());
    let mut lossy = TAKING_NOTHING.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        plain.push(cycle(jobs, None).await?);
        traced.push(cycle(jobs, Some(Collector::Takes)).await?);
        for (cycles, (collector, _)) in lossy.iter_mut().zip(TAKING_NOTHING) {
            cycles.push(cycle(jobs, Some(collector)).await?);
        }
    }
    let us_per_job = |cycle: &Cycle| cycle.us_per_job;
    let jobs_per_second = |cycle: &Cycle| cycle.jobs_per_second;
    let (us, us_traced) = (median(&plain, us_per_job), median(&traced, us_per_job));
    let dropped: u64 = traced.iter().map(|cycle| cycle.lost).sum();
    let mut list = figures([
        ("worker us per job", us),
        ("worker us per job, traced", us_traced),
        ("more worker cpu, percent", more_percent(us_traced, us)),
        ("spans dropped", dropped as f64),
        (
            "off: percent of worker cpu",
            100.0 * off_us_per_job().await / us,
        ),
    ]);
    list.push((
        "jobs per second".to_owned(),
        median(&plain, jobs_per_second),
    ));
    for (cycles, (_, word)) in lossy.iter().zip(TAKING_NOTHING) {
        let us_lossy = median(cycles, us_per_job);
        let of_collector = [
            ("worker us per job", us_lossy),
            ("more worker cpu, percent", more_percent(us_lossy, us)),
            ("jobs per second", median(cycles, jobs_per_second)),
            ("ms to end", median(cycles, |cycle| cycle.end_ms)),
        ];
        let named = |(figure, value)| (format!("{word} collector: {figure}"), value);
        list.extend(of_collector.map(named));
    }
    Ok(list)
}

/// Delivers `jobs` due jobs. Without a collector there are no traces.
async fn cycle(jobs: usize, collector: Option<Collector>) -> Result<Cycle> {
    let sink = Sink::start(collector)?;
    let settings = Settings {
        endpoint: collector.map(|_| format!("http://{}", sink.address)),
        protocol: Some(Protocol::Http),
        logs: false,
        queue_max: match collector {
            Some(Collector::Takes) => QUEUE_MAX,
            _ => Settings::default().queue_max,
        },
        ..Settings::default()
    };
    let process = Process {
        role: "bench",
        version: env!("CARGO_PKG_VERSION"),
        queue: "rd".to_owned(),
    };
    let pipeline = match collector {
        None => Pipeline::default(),
        Some(_) => Pipeline::start(&settings, &process).map_err(|why| anyhow!(why))?,
    };
    let tracing = pipeline.tracing(&settings, &process, IdHasher::new(b"bench"));
    let rig = Rig::new().await?;
    rig.schedule((0..jobs).map(|n| arrival(n, n % 1_000, Duration::ZERO)))
        .await?;
    let sender = Arc::new(NoSender::default());
    let stop = CancellationToken::new();
    let sink_before = sink.cpu_us();
    let start = rig.start().await?;
    let worker = rig.start_traced_worker(sender.clone(), &stop, &tracing);
    sender.wait_for(jobs).await;
    let wall = rig.cost(&start).await?.wall;
    stop.cancel();
    worker.await?;
    let ending = Instant::now();
    let (spans, _) = spawn_blocking(|| pipeline.shutdown()).await?;
    let end_ms = ending.elapsed().as_secs_f64() * 1_000.0;
    let of_sink = sink.cpu_us() - sink_before;
    let cost = rig.cost(&start).await?;
    rig.end().await;
    Ok(Cycle {
        us_per_job: Cost::each(cost.own_cpu, jobs) - of_sink as f64 / jobs as f64,
        jobs_per_second: jobs as f64 / wall.as_secs_f64(),
        lost: spans.dropped + spans.failed,
        end_ms,
    })
}

/// Returns the time of all calls that a worker makes for the spans of one job if nothing is traced,
/// in microseconds.
async fn off_us_per_job() -> f64 {
    let tracing = black_box(Tracing::off());
    let starting = Starting {
        job: "default/jo@example.com",
        destination: "example.com",
        number: 1,
        message: "m1",
        previous: None,
        since_bounce: Duration::from_secs(3_600),
        late: Duration::ZERO,
    };
    let judged = Judged {
        outcome: &Outcome::Delivered(Reply::parse("250 2.0.0 Ok")),
        verdict: "close",
        row: None,
        attempts_max: None,
        is_error: false,
    };
    let began = Instant::now();
    for _ in 0..JOBS_OFF {
        let span = tracing.process(black_box(&starting), std::iter::empty());
        let attempt = async {
            span.content(span.now(), None);
            black_box(span.now());
            span.judge(black_box(&judged), |_| String::new());
        };
        span.around(attempt).await;
        black_box((span.context(), span.settling()));
        span.end(Duration::ZERO);
    }
    began.elapsed().as_secs_f64() * 1e6 / JOBS_OFF as f64
}

fn more_percent(value: f64, than: f64) -> f64 {
    100.0 * (value / than - 1.0)
}

/// Returns the median of a figure of several cycles.
fn median(cycles: &[Cycle], figure: impl Fn(&Cycle) -> f64) -> f64 {
    let mut values: Vec<f64> = cycles.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What listens in place of a collector. It reads no request.
struct Sink {
    address: SocketAddr,
    cpu_us: Arc<AtomicU64>,
}

impl Sink {
    /// Starts what this collector does. Nothing listens at the address of one that is missing.
    fn start(collector: Option<Collector>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let cpu_us = Arc::new(AtomicU64::new(0));
        let sink = Self {
            address,
            cpu_us: cpu_us.clone(),
        };
        // `None` means no answer at all.
        let status = match collector {
            None | Some(Collector::Missing) => return Ok(sink),
            Some(Collector::Hangs) => None,
            Some(Collector::Takes) => Some("200 OK"),
            Some(Collector::Refuses) => Some("503 Service Unavailable"),
        };
        thread::spawn(move || {
            // Dropping a connection would close it.
            let mut hanging = Vec::new();
            for stream in listener.incoming().flatten() {
                match status {
                    None => hanging.push(stream),
                    Some(status) => {
                        let cpu_us = cpu_us.clone();
                        thread::spawn(move || serve(stream, status, &cpu_us));
                    }
                }
            }
        });
        Ok(sink)
    }

    fn cpu_us(&self) -> u64 {
        self.cpu_us.load(Ordering::Relaxed)
    }
}

/// Answers all requests of one connection with this status, until it is closed.
fn serve(stream: TcpStream, status: &str, cpu_us: &AtomicU64) -> Option<()> {
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
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/x-protobuf\r\n\
             content-length: 0\r\n\r\n"
        );
        answers.write_all(answer.as_bytes()).ok()?;
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
