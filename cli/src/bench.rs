//! `redeliver bench`: measures how fast the store and the worker are on this machine. Each mode
//! starts a private Redis, runs several times with fixed seeds, and prints medians. Compare the CPU
//! time of Redis first, because other load on the machine does not change it.

use std::fs;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use private_servers::redis as private_redis;
use serde_json::{Map, Value, json};

use crate::figures::thousands;
use crate::process;

mod classify;
mod conversation;
mod cycle;
mod feed;
mod http;
mod lateness;
mod limit;
mod memory;
mod postfix;
mod raw;
mod rig;
mod sharing;
mod smtp;
mod stall;
mod targets;
mod traces;

/// How often each mode runs by default. A median of fewer runs would not mean much.
const RUNS: u32 = 3;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What to measure, with the time that one run takes; everything if no mode is given
    #[arg(value_enum)]
    modes: Vec<Mode>,

    /// How many jobs or replies to use, instead of the number that each mode has by default
    #[arg(long)]
    jobs: Option<usize>,

    /// How many due jobs each of the two backlogs of `skew` has, the backlog of `skew-accounts`,
    /// and the largest backlog of `backlog` [default: 1,000,000, 10,000 and 5,000,000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..=100_000_000))]
    backlog: Option<u32>,

    /// How often each mode runs
    #[arg(long, default_value_t = RUNS, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,

    /// Print JSON, one object per mode
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    stall: stall::StallArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Pairs of ZADD and ZREM in pipelines: the upper limit of what Redis can do (a few seconds)
    Raw,
    /// Schedule jobs at one destination through the store, in batches of 500 (10 s)
    Ingest,
    /// Like `ingest`, but at a thousand destinations, so that few jobs of a batch share one (15 s)
    IngestSpread,
    /// Claim, send nothing, settle: all jobs at one destination (35 s)
    Cycle,
    /// Like `cycle`, but over 50,000 destinations by Zipf's law (40 s)
    CycleZipf,
    /// Like `cycle`, but each job is deferred once, by 1 to 1.5 s (60 s)
    Retry,
    /// Bytes of Redis memory per waiting job (10 s)
    Memory,
    /// The rate of `cycle` while 100 k, 1 M and 5 M jobs are pending, all of them due (6 minutes)
    Backlog,
    /// How late jobs are claimed when 5,000 fall due each second (20 s)
    Lateness,
    /// `lateness` alone, and then with two backlogs of due jobs: one throttled, one not (3 minutes)
    Skew,
    /// How late the jobs of a small account are at a destination with a rate limit: alone, and then
    /// next to a backlog of another account (40 s)
    SkewAccounts,
    /// How many messages a mail server refuses if it accepts only 5, 20 or 50 connections, and how
    /// much of the time its connections are in use (1 to 9 minutes)
    Limit,
    /// How late healthy mail is while 300 of 1,000 destinations hang: after a cold start, and
    /// after a warm-up (10 minutes)
    Stall,
    /// Classify replies on one core: parse them, find their reason and their policy row (5 s)
    Classify,
    /// Post bounces at 50,000 domains by Zipf's law to a scheduler as NDJSON, over four connections
    /// (1 minute)
    Http,
    /// Like `http`, but all bounces are at one domain (1 minute)
    HttpOne,
    /// `cycle` with and without traces, in turn, while a collector takes every span (2 minutes)
    Traces,
    /// Deliver messages of 4 KiB to Postfix's smtp-sink, and compare with smtp-source and Postfix's
    /// own queue; must run as root (2 minutes)
    Smtp,
}

/// The figures of one run: for each figure its name with the unit, and its value.
type Figures = Vec<(String, f64)>;

fn figures<const N: usize>(list: [(&str, f64); N]) -> Figures {
    list.map(|(name, value)| (name.to_owned(), value)).into()
}

pub(crate) async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let modes = if arguments.modes.is_empty() {
        Mode::value_variants()
    } else {
        &arguments.modes
    };
    let machine = machine().await;
    let stop = process::stop_on_signal()?;
    if !arguments.json {
        println!(
            "{machine}; {} runs of each mode, medians (least to most)\n\n{}",
            arguments.runs,
            targets::HEAD
        );
    }
    for mode in modes {
        let name = mode
            .to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default();
        let mut runs = Vec::new();
        for n in 0..arguments.runs {
            eprintln!("{name}: run {} of {}", n + 1, arguments.runs);
            // On a signal the run is dropped, and with it the Redis that it has started.
            let Some(figures) = stop.run_until_cancelled(run_once(*mode, arguments)).await else {
                return Ok(ExitCode::from(process::INTERRUPTED));
            };
            runs.push(figures?);
        }
        let medians = medians(&runs);
        if arguments.json {
            let figures: Map<String, Value> = medians
                .iter()
                .map(|(name, [least, median, most])| {
                    (
                        (*name).to_owned(),
                        json!({"median": median, "min": least, "max": most}),
                    )
                })
                .collect();
            println!(
                "{}",
                json!({
                    "mode": name,
                    "machine": machine,
                    "runs": arguments.runs,
                    "figures": figures,
                })
            );
        } else {
            for (figure, values) in medians {
                println!("{}", targets::row(&name, figure, values));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_once(mode: Mode, arguments: &Arguments) -> Result<Figures> {
    let jobs = arguments.jobs;
    let backlog = |default| {
        arguments
            .backlog
            .map_or(default, |backlog| backlog as usize)
    };
    match mode {
        Mode::Ingest => cycle::ingest(jobs.unwrap_or(200_000), 1).await,
        Mode::IngestSpread => cycle::ingest(jobs.unwrap_or(200_000), 1_000).await,
        Mode::Cycle => cycle::cycle(jobs.unwrap_or(300_000), 1).await,
        Mode::CycleZipf => cycle::cycle(jobs.unwrap_or(300_000), 50_000).await,
        Mode::Retry => cycle::retry(jobs.unwrap_or(300_000)).await,
        Mode::Memory => memory::memory(jobs.unwrap_or(200_000)).await,
        Mode::Backlog => cycle::backlog(jobs.unwrap_or(100_000), backlog(5_000_000)).await,
        Mode::Lateness => lateness::lateness(jobs.unwrap_or(50_000)).await,
        Mode::Skew => lateness::skew(jobs.unwrap_or(50_000), backlog(1_000_000)).await,
        Mode::SkewAccounts => sharing::sharing(backlog(10_000)).await,
        Mode::Raw => raw::raw(jobs.unwrap_or(500_000)).await,
        Mode::Limit => limit::limit(jobs).await,
        Mode::Stall => stall::stall(&arguments.stall).await,
        Mode::Classify => classify::classify(jobs.unwrap_or(500_000)),
        Mode::Http => http::http(jobs.unwrap_or(400_000), 50_000).await,
        Mode::HttpOne => http::http(jobs.unwrap_or(400_000), 1).await,
        Mode::Traces => traces::traces(jobs.unwrap_or(200_000)).await,
        Mode::Smtp => smtp::smtp(jobs.unwrap_or(20_000)).await,
    }
}

/// Returns the least value, the median and the most of each figure.
fn medians(runs: &[Figures]) -> Vec<(&str, [f64; 3])> {
    let names = runs
        .first()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str());
    names
        .enumerate()
        .map(|(n, name)| {
            let mut values: Vec<f64> = runs.iter().map(|run| run[n].1).collect();
            values.sort_by(f64::total_cmp);
            (
                name,
                [
                    values[0],
                    values[values.len() / 2],
                    values[values.len() - 1],
                ],
            )
        })
        .collect()
}

fn round(value: f64) -> String {
    if value >= 1_000.0 {
        thousands(value as u64)
    } else {
        format!("{value:.2}")
    }
}

/// Describes the machine, as far as the system reports it.
async fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let build = if cfg!(debug_assertions) {
        "a debug build: figures mean little"
    } else {
        "a release build"
    };
    let server = private_redis::version()
        .await
        .unwrap_or_else(|| "no Redis".to_owned());
    format!(
        "{model}, {cores} cores, {} {}, {server}, {build}",
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}
