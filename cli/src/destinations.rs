//! `redeliver destinations`: lists, shows, holds, releases and limits destinations, over the API.
//! It also shows where a domain would be placed: for that it uses only the configuration and DNS.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use domain::address::Address;
use domain::clock::{Clock, Timestamp};
use reqwest::Method;
use scheduler::placement::dns::Dns;
use scheduler::placement::propose;
use serde_json::{Value, json};
use system::clock::SystemClock;

use crate::api::{Api, Call, text};
use crate::figures::thousands;
use crate::instants::{distance, instant_at};
use crate::page::Page;
use crate::process;

mod list;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show where new domains would be placed, and why
    Place {
        /// Domains, or addresses
        #[arg(required = true)]
        domains: Vec<String>,
    },
    /// List destinations: those in trouble first, then those with work
    List(Page),
    /// Show the state of a destination: waiting jobs, attempts under way, limits, breaker and hold
    Show(DestinationArg),
    /// Start no attempts at a destination
    Hold(Hold),
    /// End a hold, so that attempts start again
    Release(DestinationArg),
    /// Give a destination other limits than those of the configuration
    Limit(Limit),
}

#[derive(Debug, Args)]
struct DestinationArg {
    /// A destination (google), or a domain that is placed there (gmail.com)
    name: String,

    #[command(flatten)]
    api: Api,
}

#[derive(Debug, Args)]
struct Hold {
    #[command(flatten)]
    destination: DestinationArg,

    /// Why the destination is held; this is shown with the hold
    #[arg(long)]
    reason: String,

    /// How long, for example 2h; without --for and --until, the hold lasts until it is released
    #[arg(long = "for", value_name = "SPAN", conflicts_with = "until")]
    #[arg(value_parser = humantime::parse_duration)]
    span: Option<Duration>,

    /// Until when, for example 2026-12-24T18:00:00Z
    #[arg(long, value_name = "INSTANT")]
    until: Option<String>,
}

#[derive(Debug, Args)]
struct Limit {
    #[command(flatten)]
    destination: DestinationArg,

    #[command(flatten)]
    limits: Limits,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Limits {
    /// Attempts per second; 0 means no rate limit, only the window
    #[arg(long)]
    rate: Option<f64>,

    /// The most attempts that can be saved up while fewer are made than the rate allows
    #[arg(long)]
    burst: Option<f64>,

    /// The most attempts at once
    #[arg(long)]
    window: Option<u32>,

    /// Remove these limits, so that those of the configuration apply again
    #[arg(long, conflicts_with_all = ["rate", "burst", "window"])]
    default: bool,
}

pub(crate) async fn run(config: Option<&Path>, arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.action {
        Action::Place { domains } => place(config, domains).await?,
        Action::List(page) => list::run(page).await?,
        Action::Show(destination) => destination.call(Method::GET, None, None).await?,
        Action::Hold(hold) => {
            let until = hold
                .span
                .map(|span| SystemClock.now().plus(span).to_string())
                .or(hold.until.clone());
            let body = json!({"reason": hold.reason, "until": until});
            let destination = &hold.destination;
            destination
                .call(Method::PUT, Some("hold"), Some(body))
                .await?;
        }
        Action::Release(destination) => {
            destination.call(Method::DELETE, Some("hold"), None).await?;
        }
        Action::Limit(Limit {
            destination,
            limits: Limits { default: true, .. },
        }) => {
            destination
                .call(Method::DELETE, Some("limits"), None)
                .await?;
        }
        Action::Limit(Limit {
            destination,
            limits:
                Limits {
                    rate,
                    burst,
                    window,
                    ..
                },
        }) => {
            let body = json!({"rate": rate, "burst": burst, "window": window});
            destination
                .call(Method::PUT, Some("limits"), Some(body))
                .await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl DestinationArg {
    /// Calls `/v1/destinations/{name}/{action}`, and prints the state of the destination that the
    /// scheduler returns. Without an action, it only reads.
    async fn call(&self, method: Method, action: Option<&str>, body: Option<Value>) -> Result<()> {
        let path: Vec<&str> = ["destinations", &self.name]
            .into_iter()
            .chain(action)
            .collect();
        let answer = self
            .api
            .call(Call {
                method,
                path: &path,
                query: &[],
                body,
            })
            .await?;
        process::print(&if self.api.json {
            format!("{answer}\n")
        } else {
            describe(&answer, SystemClock.now())
        })
    }
}

fn describe(answer: &Value, now: Timestamp) -> String {
    let (name, asked) = (text(&answer["destination"]), text(&answer["asked"]));
    let as_asked = if name == asked {
        String::new()
    } else {
        format!(" (asked for: {asked})")
    };
    let hold = hold(&answer["hold"], now).unwrap_or_else(|| "none".to_owned());
    let breaker = breaker(&answer["breaker"], now);
    let next_due = answer["next_due"].as_str().and_then(Timestamp::parse);
    let next_due = next_due.map(|due| {
        if due <= now {
            ", due now".to_owned()
        } else {
            format!(", the next due {}", distance(due, now))
        }
    });
    let limits = &answer["limits"];
    let tokens = answer["tokens"]
        .as_f64()
        .map(|saved| format!(", {saved:.1} of them now"))
        .unwrap_or_default();
    let rate = match limits["rate"].as_f64() {
        Some(rate) if rate > 0.0 => format!(
            "{rate}/s, {} saved up at most{tokens}, ",
            text(&limits["burst"])
        ),
        _ => "no rate, ".to_owned(),
    };
    let waiting = match answer["waiting"].as_u64() {
        Some(1) => "1 job".to_owned(),
        count => format!("{} jobs", thousands(count.unwrap_or_default())),
    };
    let waiting = format!("{waiting}{}", next_due.unwrap_or_default());
    [
        ("destination", format!("{name}{as_asked}")),
        ("hold", hold),
        ("breaker", breaker),
        ("waiting", waiting),
        (
            "in flight",
            format!(
                "{} of at most {} at once",
                text(&answer["in_flight"]),
                text(&answer["window"])
            ),
        ),
        (
            "limits",
            format!(
                "{rate}{} at once at most ({})",
                text(&limits["window"]),
                text(&limits["from"])
            ),
        ),
        (
            "delivered",
            match &answer["delivered"] {
                Value::Null => "never yet".to_owned(),
                at => format!("last {}", instant_at(at, now)),
            },
        ),
    ]
    .map(|(key, value)| format!("{key:<12} {value}\n"))
    .concat()
}

/// Returns until when a destination is held, and why. `None` if it is not held.
fn hold(hold: &Value, now: Timestamp) -> Option<String> {
    let reason = text(hold.get("reason")?);
    Some(match &hold["until"] {
        Value::Null => format!("until it is released: {reason}"),
        until => format!("until {}: {reason}", instant_at(until, now)),
    })
}

fn breaker(breaker: &Value, now: Timestamp) -> String {
    let times = text(&breaker["times"]);
    match text(&breaker["state"]).as_str() {
        "open" => match &breaker["until"] {
            until @ Value::String(_) => {
                format!("open until {}, {times} in a row", instant_at(until, now))
            }
            _ => format!("open, the next due job is its one attempt; {times} in a row"),
        },
        "half_open" => {
            format!(
                "one attempt is under way, the others wait for its result; opened {times} in a row"
            )
        }
        state => state.to_owned(),
    }
}

async fn place(config: Option<&Path>, domains: &[String]) -> Result<()> {
    let (config, _) = process::configure(config)?;
    let dns = config
        .placement
        .mx
        .then(|| Dns::new(&config.placement))
        .transpose()
        .map_err(|why| anyhow!(why))?;
    let recipients = domains
        .iter()
        .map(|text| recipient(text))
        .collect::<Result<Vec<_>>>()?;
    let domains: Vec<&str> = recipients.iter().map(Address::domain).collect();
    let lines = propose(&config.providers, dns.as_ref(), &domains)
        .await
        .into_iter()
        .map(|proposal| {
            let (domain, destination, reason) = (
                proposal.domain,
                proposal.destination.as_str(),
                proposal.reason.as_str(),
            );
            format!("{domain:<24} {destination:<32} {reason}\n")
        });
    process::print(&lines.collect::<String>())
}

/// Reads an address, or makes an address from a domain. The caller uses only its domain.
fn recipient(text: &str) -> Result<Address> {
    let address = if text.contains('@') {
        text.to_owned()
    } else {
        format!("postmaster@{text}")
    };
    match Address::parse(&address) {
        Ok(address) => Ok(address),
        Err(why) => bail!("\"{text}\" is neither a domain nor an address: {why}"),
    }
}
