//! `redeliver jobs`: shows the attempts of a job. It uses the API.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use chrono::{DateTime, Local, NaiveDateTime};
use clap::{Args, Subcommand};
use domain::account::Account;
use domain::address::Address;
use domain::clock::{Clock, Timestamp};
use domain::job::JobId;
use reqwest::Method;
use serde_json::{Value, json};
use system::clock::SystemClock;

use crate::api::{Api, Call, read_job};
use crate::process;

mod axis;
mod chain;
mod draw;
#[cfg(test)]
mod tests;
mod words;

use chain::{Chain, State};
use draw::{Notice, View};

/// The width of the picture if the output is no terminal, and the narrowest and widest picture.
const WIDTH: usize = 80;
const WIDTH_MIN: usize = 60;
const WIDTH_MAX: usize = 160;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Draw the attempts of a job on a time axis, with replies, phases and traces
    ///
    /// A job that has ended is drawn from its events, as long as the journal keeps them
    /// (journal.keep). Times are local. The width is that of the terminal, or COLUMNS.
    Trace(Trace),
}

#[derive(Debug, Args)]
struct Trace {
    /// account/address, or an address of the default account
    job: String,

    /// The account; JOB is then only an address
    #[arg(long)]
    account: Option<String>,

    /// How long to search the journal for the job's events
    #[arg(long, value_name = "SPAN", default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration)]
    search: Duration,

    #[command(flatten)]
    api: Api,
}

/// The events of a job, as far as they were found.
struct Found {
    /// Oldest first.
    events: Vec<Value>,
    /// Whether they begin with the start of the job.
    is_complete: bool,
    /// Whether older entries of the journal were not searched.
    is_cut_short: bool,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.action {
        Action::Trace(arguments) => trace(arguments).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn trace(arguments: &Trace) -> Result<()> {
    let id = arguments.id()?;
    let account = [("account", id.account.to_string())];
    let api = &arguments.api;
    let call = Call {
        method: Method::GET,
        path: &["addresses", id.recipient.as_str()],
        query: &account,
        body: None,
    };
    let address = api.call(call).await?;
    let found = find_events(api, &id, arguments.search).await?;
    if address["job"].is_null() && found.events.is_empty() {
        let job = id.key();
        if found.is_cut_short {
            bail!(
                "{job} has no job now, and no event of one was found in {}; search longer with \
                 --search, for example --search 5m",
                humantime::format_duration(arguments.search)
            );
        }
        bail!(
            "{job} has no job, and the journal has no event of one; check the address and the \
             account (--account), and how long events are kept (journal.keep)"
        );
    }
    if api.json {
        let Found {
            events,
            is_complete,
            ..
        } = found;
        let data = json!({"address": address, "events": events, "complete": is_complete});
        return process::print(&format!("{data}\n"));
    }
    let chain = Chain::read(id.key(), &address, &found.events);
    let notice = match (found.is_complete, found.is_cut_short) {
        (true, _) => None,
        (false, true) => Some(Notice::SearchLonger),
        (false, false) if chain.state == State::Ended => Some(Notice::StartIsGone),
        (false, false) => Some(Notice::PhasesAreGone),
    };
    let view = View {
        width: width(),
        now: SystemClock.now(),
        to_local,
    };
    print(&draw::draw(&chain, notice, &view))
}

impl Trace {
    fn id(&self) -> Result<JobId> {
        let Some(account) = &self.account else {
            return read_job(&self.job);
        };
        let account = Account::parse(account).map_err(|why| anyhow!("--account: {why}"))?;
        let recipient = Address::parse(&self.job)
            .map_err(|why| anyhow!("\"{}\" is not an address: {why}", self.job))?;
        Ok(JobId { account, recipient })
    }
}

/// Asks for the events of the latest job of an address, until it has its start, or all events that
/// the journal has, or until `search` is over.
async fn find_events(api: &Api, id: &JobId, search: Duration) -> Result<Found> {
    let begun = Instant::now();
    let mut events: Vec<Value> = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let mut query = vec![("account", id.account.to_string())];
        query.extend(next.map(|next| ("before", next)));
        let call = Call {
            method: Method::GET,
            path: &["addresses", id.recipient.as_str(), "events"],
            query: &query,
            body: None,
        };
        let mut answer = api.call(call).await?;
        let older = answer["events"].as_array_mut().map(std::mem::take);
        events.splice(0..0, older.unwrap_or_default());
        let is_complete = answer["complete"] == true;
        next = answer["next"].as_str().map(str::to_owned);
        let is_cut_short = !is_complete && next.is_some();
        if !is_cut_short || begun.elapsed() >= search {
            return Ok(Found {
                events,
                is_complete,
                is_cut_short,
            });
        }
    }
}

/// Returns an instant by the clock on the wall here.
fn to_local(at: Timestamp) -> NaiveDateTime {
    let at = DateTime::from_timestamp_millis(at.ms()).unwrap_or_default();
    at.with_timezone(&Local).naive_local()
}

fn width() -> usize {
    let columns = env::var("COLUMNS").ok();
    let columns = columns.and_then(|columns| columns.parse().ok());
    let of_terminal = || {
        let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
        Some(width.0.into())
    };
    columns
        .or_else(of_terminal)
        .unwrap_or(WIDTH)
        .clamp(WIDTH_MIN, WIDTH_MAX)
}

/// Writes to standard output, with colours if it is a terminal. If the reader has closed it, it
/// needs no more.
fn print(text: &str) -> Result<()> {
    match anstream::stdout().write_all(text.as_bytes()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            Err(err).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}
