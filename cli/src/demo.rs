//! `redeliver demo`: the whole of Redeliver against a cast of real SMTP servers on loopback, in
//! fast motion. A campaign of bounces goes in through HTTP, and all that is shown afterwards is
//! read from the journal.

use std::fs;
use std::io::{self, IsTerminal};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
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
use telemetry::log;
use telemetry::log::Log;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use worker::content::Contents;
use worker::routes::Routes;
use worker::run::Worker;

use crate::process;

mod campaign;
mod cast;
mod display;
mod report;
mod score;

use campaign::Answers;
use cast::{Cast, Member};
use display::Display;
use score::Score;

/// The campaign that comes with the demo.
const CAMPAIGN: &str = include_str!("../demo/campaign.ndjson");

/// When the cast opens, in the demo's own time: as the last bounce of the campaign has happened.
const OPENING: &str = "2026-11-02T09:10:00Z";

/// How often the display looks at the journal.
const LOOK: Duration = Duration::from_millis(100);

/// How many journal entries are read at once, per shard.
const READ_COUNT: usize = 500;

/// When no bounce ended for so long, in real time, the demo is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How many times as fast as real time the demo runs
    #[arg(long, default_value_t = 36_000, value_parser = clap::value_parser!(u32).range(1..=360_000))]
    speed: u32,

    /// Another campaign: NDJSON as POST /v1/bounces takes it, with the cast's route names
    #[arg(long, value_name = "FILE")]
    campaign: Option<PathBuf>,

    /// Leave everything running after the report, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// What runs while the demo does.
struct Stage {
    clock: Arc<FastClock>,
    cast: Cast,
    store: Store,
    redis: PrivateRedis,
    api: String,
    stop: CancellationToken,
    worker: Option<Worker>,
    running: Vec<JoinHandle<()>>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let stop = process::stop_on_signal()?;
    log::start(&Log {
        json: false,
        filter: "error".to_owned(),
    });
    let bounces = match &arguments.campaign {
        None => CAMPAIGN.to_owned(),
        Some(path) => {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
    };
    let mut stage = Stage::set(arguments.speed, stop.clone()).await?;
    println!("{}", introduction(&stage, arguments.speed));
    let answers = campaign::post(&stage.api, bounces).await?;
    println!("{answers}\n");
    if answers.taken_in() == 0 {
        stage.strike().await;
        bail!("the campaign holds no bounce that could be taken in");
    }
    // Only now, so that no bounce comes after an attempt that it happened before.
    stage.curtain();
    let started = Instant::now();
    let score = follow(&stage, &answers, &stop).await?;
    if stop.is_cancelled() {
        stage.strike().await;
        return Ok(ExitCode::from(process::INTERRUPTED));
    }
    let (text, sound) = report::write(
        &score,
        &answers,
        stage.cast.members(),
        started.elapsed(),
        arguments.speed,
    );
    anstream::println!("{text}");
    if arguments.keep {
        println!("Still running, at {}; Ctrl-C stops it.", stage.api);
        stop.cancelled().await;
    }
    stage.strike().await;
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Follows the journal until every bounce that was taken in has ended.
async fn follow(stage: &Stage, answers: &Answers, stop: &CancellationToken) -> Result<Score> {
    let mut score = Score::default();
    let mut display = Display::new(io::stderr().is_terminal(), answers.waiting() as u64);
    let mut after = vec![EntryId::default(); usize::from(stage.store.shards())];
    let mut last_news = Instant::now();
    loop {
        let journals = stage.store.read_journal(&after, READ_COUNT).await?;
        let mut news = 0;
        for (after, journal) in after.iter_mut().zip(journals) {
            for entry in journal {
                *after = entry.id;
                news += entry.events.len();
                entry.events.into_iter().for_each(|event| score.note(event));
            }
        }
        let leased = stage.store.leased(READ_COUNT).await?;
        display.show(&score, &leased, stage.clock.now().since(opening()));
        // Only a journal read to its end says that there is nothing more.
        if (news == 0 && leased.is_empty() && score.all_ended(answers.waiting()))
            || stop.is_cancelled()
        {
            display.finish();
            return Ok(score);
        }
        if news > 0 {
            last_news = Instant::now();
            continue;
        }
        if last_news.elapsed() > PATIENCE {
            display.finish();
            bail!(
                "nothing has happened for {PATIENCE:?}, and {} bounces have not ended",
                score.open()
            );
        }
        stop.run_until_cancelled(sleep(LOOK)).await;
    }
}

fn opening() -> Timestamp {
    Timestamp::parse(OPENING).expect("it is a constant")
}

fn introduction(stage: &Stage, speed: u32) -> String {
    let mut text = format!(
        "A scheduler and a worker over a Redis of their own; time runs {speed} times as fast.\nThe cast, each a real SMTP \
         server on loopback:\n\n  route        address          domain               story\n"
    );
    for member in stage.cast.members() {
        text.push_str(&format!(
            "  {:<12} {:<16} {:<20} {}\n",
            member.route, member.address, member.domain, member.story
        ));
    }
    text
}

impl Stage {
    async fn set(speed: u32, stop: CancellationToken) -> Result<Self> {
        let clock = Arc::new(FastClock::new(opening(), speed));
        let cast = Cast::start(clock.clone(), opening())
            .await
            .context("the cast cannot listen on loopback")?;
        let redis = PrivateRedis::volatile().await?;
        let (mut config, table) = (configuration(&redis, speed, &cast), Table::embedded());
        // Half of them are for the scheduler and the cast.
        process::fit_worker(&mut config, process::raise_open_files() / 2);
        let store = process::open_store(&config, &table, clock.clone(), &stop)
            .await?
            .context("stopped before it began")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("cannot listen on loopback")?;
        let api = format!("http://{}", listener.local_addr()?);
        let scheduler =
            Scheduler::new(store.clone(), table.clone(), &config).map_err(|why| anyhow!(why))?;
        let contents = Contents::new(Vec::new());
        let routes = Routes::from_config(&config, store.clock()).map_err(|why| anyhow!(why))?;
        let worker = Worker::new(
            store.clone(),
            routes,
            contents,
            table,
            config.worker.clone(),
        );
        let inner = CancellationToken::new();
        let serving = inner.clone();
        let running = vec![tokio::spawn(async move {
            if let Err(err) = scheduler.serve(listener, serving).await {
                tracing::error!(%err, "the scheduler failed");
            }
        })];
        Ok(Self {
            clock,
            cast,
            store,
            redis,
            api,
            stop: inner,
            worker: Some(worker),
            running,
        })
    }

    /// Lets time run and the worker work.
    fn curtain(&mut self) {
        self.clock.start();
        if let Some(worker) = self.worker.take() {
            self.running
                .push(tokio::spawn(worker.run(self.stop.clone())));
        }
    }

    /// Takes everything down, in order.
    async fn strike(self) {
        self.stop.cancel();
        for task in self.running {
            let _ = task.await;
        }
        self.redis.stop().await;
    }
}

/// The defaults, but for what fast motion needs: spans that are told in the demo's time and mean
/// real ones are as much longer as time is faster, and the worker looks oftener, for a moment of
/// real time is an hour here.
fn configuration(redis: &PrivateRedis, speed: u32, cast: &Cast) -> Config {
    let mut config = Config::embedded();
    config.redis.use_private(&redis.url());
    config.redis.shards = 2;
    config.worker.lease *= speed;
    config.worker.poll_max = Duration::from_millis(5);
    // A conversation of ten milliseconds takes minutes of the demo's time: windows and breakers
    // would mistake that for the pace of the servers, and what is to be seen here is the schedule.
    config.pace = Pace::unbounded();
    // Five minutes are a few milliseconds here, and it looks at every job.
    config.upkeep.repair = "15 0 0 * * *".to_owned();
    config.worker.settle_linger = Duration::from_millis(1);
    config.worker.route = "healthy".to_owned();
    config.routes = cast.members().iter().map(route).collect();
    config
}

fn route(member: &Member) -> Route {
    let mut settings = SmtpSettings::new(member.address.ip().to_string(), member.address.port());
    settings.session.helo = "redeliver.example".to_owned();
    settings.session.timeouts = SmtpTimeouts::all(Duration::from_secs(10));
    Route {
        name: member.route.to_owned(),
        sender: SenderSettings::Smtp(settings),
        confirm: Duration::ZERO,
    }
}
