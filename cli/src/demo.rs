//! `redeliver demo`: runs all of Redeliver against real SMTP servers on loopback, in fast motion. A
//! campaign of bounces is posted over HTTP. Everything shown afterwards is read from the journal.

use std::fs;
use std::io::{self, IsTerminal};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use config::model::Config;
use domain::clock::{Clock, Timestamp};
use domain::pace::Pace;
use policy::table::Table;
use private_servers::redis::PrivateRedis;
use scheduler::serve::Scheduler;
use senders::settings::route::{Route, SenderSettings};
use senders::settings::session::SmtpTimeouts;
use senders::settings::smtp::SmtpSettings;
use store::entry_id::EntryId;
use store::handle::Store;
use system::clock::FastClock;
use telemetry::log::{Format, Log};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use worker::content::Contents;
use worker::listener;
use worker::routes::Routes;
use worker::run::Worker;

use crate::process::{self, Telemetry};

mod campaign;
mod display;
mod mail_servers;
mod report;
mod results;

use campaign::Answers;
use display::Display;
use mail_servers::{MailServer, MailServers};
use results::Results;

/// The campaign that comes with the demo.
const CAMPAIGN: &str = include_str!("../demo/campaign.ndjson");

/// When the demo's time starts: just after the last bounce of the campaign. The servers' troubles
/// begin at this instant.
const OPENING: &str = "2026-11-02T09:10:00Z";

/// How often the display reads the journal.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How many journal entries are read at once, per shard.
const READ_COUNT: usize = 500;

/// If no event happens for this long, in real time, the demo counts as stuck and fails.
const STUCK_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How many times as fast as real time the demo runs
    #[arg(long, default_value_t = 36_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=360_000))]
    speed: u32,

    /// Another campaign: NDJSON as for POST /v1/bounces, with the routes of the demo's mail servers
    #[arg(long, value_name = "FILE")]
    campaign: Option<PathBuf>,

    /// Leave everything running after the report, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// The running parts of the demo.
struct Demo {
    clock: Arc<FastClock>,
    servers: MailServers,
    store: Store,
    redis: PrivateRedis,
    /// The URL of the scheduler.
    api: String,
    /// The URL of the worker's metrics.
    worker_metrics: String,
    stop: CancellationToken,
    /// The worker, until it is started.
    worker: Option<Worker>,
    running: Vec<JoinHandle<()>>,
    /// What answers requests for the worker's metrics, until the demo ends.
    _answering: AbortOnDropHandle<()>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let stop = process::stop_on_signal()?;
    let mut config = Config::embedded();
    config.log = Log {
        format: Format::Text,
        filter: "error".to_owned(),
    };
    let telemetry = Telemetry::start(&config, "demo")?;
    let bounces = match &arguments.campaign {
        None => CAMPAIGN.to_owned(),
        Some(path) => {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
    };
    let mut demo = Demo::start(config, arguments.speed, &telemetry, stop.clone()).await?;
    println!("{}", introduction(&demo, arguments.speed));
    let answers = campaign::post(&demo.api, bounces).await?;
    println!("{answers}\n");
    if answers.accepted() == 0 {
        demo.stop().await;
        bail!("the scheduler accepted no bounce of the campaign");
    }
    // Only now, when all bounces are accepted. Otherwise an attempt could be made before a bounce
    // arrives that happened earlier.
    demo.start_time_and_worker();
    let started = Instant::now();
    let results = follow(&demo, &answers, &stop).await?;
    if stop.is_cancelled() {
        demo.stop().await;
        end(telemetry).await;
        return Ok(ExitCode::from(process::INTERRUPTED));
    }
    let (text, passed) = report::write(
        &results,
        &answers,
        demo.servers.all(),
        started.elapsed(),
        arguments.speed,
    );
    anstream::println!("{text}");
    if arguments.keep {
        println!(
            "Still running at {api}; Ctrl-C stops it.\n  \
             metrics of the scheduler: {api}/metrics\n  \
             metrics of the worker:    {}",
            demo.worker_metrics,
            api = demo.api
        );
        if let Some(job) = results.longest() {
            println!(
                "  the attempts of one job:  redeliver jobs trace --api {} {job}",
                demo.api
            );
        }
        stop.cancelled().await;
    }
    demo.stop().await;
    end(telemetry).await;
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Ends the sending of telemetry, and warns if the collector did not get all. The log of the demo
/// has errors only.
async fn end(telemetry: Telemetry) {
    if let Some(lost) = telemetry.shutdown().await {
        eprintln!("warning: {lost}; is it running?");
    }
}

/// Follows the journal until every accepted bounce has ended. Returns the results.
async fn follow(demo: &Demo, answers: &Answers, stop: &CancellationToken) -> Result<Results> {
    let mut results = Results::default();
    let mut display = Display::new(io::stderr().is_terminal(), answers.waiting() as u64);
    let mut after = vec![EntryId::default(); usize::from(demo.store.shards())];
    let mut last_event_at = Instant::now();
    loop {
        let journals = demo.store.read_journal(&after, READ_COUNT).await?;
        let mut new_events = 0;
        for (after, journal) in after.iter_mut().zip(journals) {
            for entry in journal {
                *after = entry.id;
                new_events += entry.events.len();
                entry
                    .events
                    .into_iter()
                    .for_each(|event| results.add(event));
            }
        }
        let leased = demo.store.leased(READ_COUNT).await?;
        display.show(&results, &leased, demo.clock.now().since(opening()));
        // All has ended only if the journal was read to its end, so there must be no new events.
        if (new_events == 0 && leased.is_empty() && results.all_ended(answers.waiting()))
            || stop.is_cancelled()
        {
            display.finish();
            return Ok(results);
        }
        if new_events > 0 {
            last_event_at = Instant::now();
            continue;
        }
        if last_event_at.elapsed() > STUCK_AFTER {
            display.finish();
            bail!(
                "the demo is stuck: no event for {STUCK_AFTER:?}, and {} bounces have not ended",
                results.open()
            );
        }
        stop.run_until_cancelled(sleep(POLL_INTERVAL)).await;
    }
}

fn opening() -> Timestamp {
    Timestamp::parse(OPENING).expect("the constant is valid")
}

fn introduction(demo: &Demo, speed: u32) -> String {
    let mut text = format!(
        "A scheduler and a worker with a private Redis; time runs {speed} times as fast.\n\
         The mail servers, each a real SMTP server on loopback:\n\n  \
         route        address          domain               trouble\n"
    );
    for server in demo.servers.all() {
        text.push_str(&format!(
            "  {:<12} {:<16} {:<20} {}\n",
            server.route, server.address, server.domain, server.description
        ));
    }
    text
}

impl Demo {
    /// Starts everything except time and the worker. `config` is the default configuration.
    async fn start(
        mut config: Config,
        speed: u32,
        telemetry: &Telemetry,
        stop: CancellationToken,
    ) -> Result<Self> {
        let clock = Arc::new(FastClock::new(opening(), speed));
        let servers = MailServers::start(clock.clone(), opening())
            .await
            .context("the mail servers cannot listen on loopback")?;
        let redis = PrivateRedis::volatile().await?;
        let table = Table::embedded();
        adapt(&mut config, &redis, speed, &servers);
        // The worker may use half of the files that may be open. The other half is for the
        // scheduler and the mail servers.
        process::fit_worker(&mut config, process::raise_open_files() / 2);
        let open = async || {
            let store = process::open_store(&config, &table, clock.clone(), &stop).await?;
            store.context("stopped before the store was open")
        };
        // Each has metrics of its own, as two processes have.
        let (store, of_worker) = (open().await?, open().await?);
        let listen = async || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            listener.context("cannot listen on loopback")
        };
        let (listener, for_worker) = (listen().await?, listen().await?);
        let api = format!("http://{}", listener.local_addr()?);
        let worker_metrics = format!("http://{}/metrics", for_worker.local_addr()?);
        let tracing = telemetry.tracing(&config, &store);
        telemetry.report_to(store.metrics());
        of_worker.metrics().version(env!("CARGO_PKG_VERSION"));
        let scheduler = Scheduler::new(store.clone(), table.clone(), &config, &tracing)
            .map_err(|why| anyhow!(why))?;
        let contents = Contents::new(Vec::new());
        let routes = Routes::from_config(&config, store.clock()).map_err(|why| anyhow!(why))?;
        let worker = Worker::new(
            of_worker.clone(),
            routes,
            contents,
            table,
            config.worker.clone(),
        )
        .with_tracing(&tracing);
        let stop_parts = CancellationToken::new();
        let stop_scheduler = stop_parts.clone();
        let asked = Arc::new(OnceLock::from(of_worker));
        let answering = listener::serve(for_worker, asked, stop_parts.clone());
        let running = vec![tokio::spawn(async move {
            if let Err(err) = scheduler.serve(listener, stop_scheduler).await {
                tracing::error!(%err, "the scheduler failed");
            }
        })];
        Ok(Self {
            clock,
            servers,
            store,
            redis,
            api,
            worker_metrics,
            _answering: AbortOnDropHandle::new(tokio::spawn(answering)),
            stop: stop_parts,
            worker: Some(worker),
            running,
        })
    }

    /// Starts the demo's time and the worker.
    fn start_time_and_worker(&mut self) {
        self.clock.start();
        if let Some(worker) = self.worker.take() {
            self.running
                .push(tokio::spawn(worker.run(self.stop.clone())));
        }
    }

    /// Stops the scheduler and the worker, and then Redis.
    async fn stop(self) {
        self.stop.cancel();
        for task in self.running {
            let _ = task.await;
        }
        self.redis.stop().await;
    }
}

/// Makes the changes that fast motion needs. The lease is in the demo's time, but must last as long
/// as usual in real time. So it is `speed` times as long. The worker polls more often, because at
/// the default speed 100 ms of real time are an hour of the demo's time.
fn adapt(config: &mut Config, redis: &PrivateRedis, speed: u32, servers: &MailServers) {
    config.redis.use_private(&redis.url());
    config.redis.shards = 2;
    config.worker.lease *= speed;
    config.scheduler.drain = Duration::ZERO;
    config.worker.poll_max = Duration::from_millis(5);
    // An SMTP session of ten milliseconds takes minutes of the demo's time. The windows and
    // breakers would treat the servers as slow, but the demo is to show the schedule.
    config.pace = Pace::unbounded();
    // Once a day of the demo's time. The repair task reads every job, and its usual period of five
    // minutes is only a few milliseconds of real time here.
    config.upkeep.repair = "15 0 0 * * *".to_owned();
    config.worker.settle_linger = Duration::from_millis(1);
    config.worker.route = "healthy".to_owned();
    config.routes = servers.all().iter().map(route).collect();
}

fn route(server: &MailServer) -> Route {
    let mut settings = SmtpSettings::new(server.address.ip().to_string(), server.address.port());
    settings.session.helo = "redeliver.example".to_owned();
    settings.session.timeouts = SmtpTimeouts::all(Duration::from_secs(10));
    Route {
        name: server.route.to_owned(),
        sender: SenderSettings::Smtp(settings),
        confirm: Duration::ZERO,
    }
}
