//! `redeliver addresses`: shows what is known about addresses, and changes their standing. It uses
//! the scheduler's API only.

use std::io::{self, BufRead};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{Api, Call, read_job, text};
use crate::process;

/// The number of addresses in one check request.
const CHECK_BATCH: usize = 10_000;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show an address's standing, and its job if it has one
    Show(AddressArg),
    /// List the addresses that are not active; without arguments, reads standard input, one
    /// address per line
    ///
    /// Exits with 0 if the scheduler answered, even if an address is inactive or no address was
    /// given. Exits with 1 if the scheduler did not answer.
    Check {
        /// Addresses
        addresses: Vec<String>,

        /// The account of the addresses
        #[arg(long, default_value = "default")]
        account: String,

        #[command(flatten)]
        api: Api,
    },
    /// Take an address off the active list until it is reinstated; its waiting messages are dropped
    Suppress(AddressArg),
    /// Make an address active again, from any standing
    Reinstate(AddressArg),
}

#[derive(Debug, Args)]
struct AddressArg {
    /// account/address, or an address of the default account
    address: String,

    #[command(flatten)]
    api: Api,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.action {
        Action::Show(address) => address.call(Method::GET, None).await?,
        Action::Suppress(address) => address.call(Method::POST, Some("suppress")).await?,
        Action::Reinstate(address) => address.call(Method::POST, Some("reinstate")).await?,
        Action::Check {
            addresses,
            account,
            api,
        } => check(addresses, account, api).await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl AddressArg {
    /// Calls `/v1/addresses/{address}/{action}`, and prints the state of the address that the
    /// scheduler returns. Without an action, it only reads.
    async fn call(&self, method: Method, action: Option<&str>) -> Result<()> {
        let id = read_job(&self.address)?;
        let path: Vec<&str> = ["addresses", id.recipient.as_str()]
            .into_iter()
            .chain(action)
            .collect();
        let query = [("account", id.account.to_string())];
        let answer = self
            .api
            .call(Call {
                method,
                path: &path,
                query: &query,
                body: None,
            })
            .await?;
        process::print(&if self.api.json {
            format!("{answer}\n")
        } else {
            describe(&answer)
        })
    }
}

async fn check(addresses: &[String], account: &str, api: &Api) -> Result<()> {
    let mut addresses: Box<dyn Iterator<Item = io::Result<String>>> = if addresses.is_empty() {
        Box::new(io::stdin().lock().lines())
    } else {
        Box::new(addresses.iter().cloned().map(Ok))
    };
    let (mut checked, mut left_out) = (0, 0);
    loop {
        let batch: Vec<String> = addresses
            .by_ref()
            .take(CHECK_BATCH)
            .collect::<io::Result<_>>()
            .context("cannot read standard input")?;
        if batch.is_empty() {
            // On standard error, so that a program gets only the addresses to leave out.
            if !api.json {
                eprintln!("{}", summary(checked, left_out));
            }
            return Ok(());
        }
        checked += batch.len();
        let body = Some(json!({"account": account, "addresses": batch}));
        let call = Call {
            method: Method::POST,
            path: &["addresses", "check"],
            query: &[],
            body,
        };
        let answer = api.call(call).await?;
        left_out += ["not_active", "refused"]
            .iter()
            .filter_map(|key| answer[*key].as_array())
            .map(Vec::len)
            .sum::<usize>();
        process::print(&if api.json {
            format!("{answer}\n")
        } else {
            list(&answer)
        })?;
    }
}

/// Returns how many addresses were checked, and how many of them to leave out.
fn summary(checked: usize, left_out: usize) -> String {
    match left_out {
        0 => format!("{checked} checked, all active"),
        _ => format!("{checked} checked, {left_out} to leave out"),
    }
}

/// Returns one line for each address that a campaign should leave out.
fn list(answer: &Value) -> String {
    let rows = |key: &str| answer[key].as_array().cloned().unwrap_or_default();
    let not_active = rows("not_active").into_iter().map(|row| {
        let until = row["until"]
            .as_str()
            .map(|until| format!(" until {until}"))
            .unwrap_or_default();
        format!(
            "{} {}{until}: {}\n",
            text(&row["address"]),
            text(&row["standing"]),
            text(&row["reason"])
        )
    });
    let refused = rows("refused").into_iter().map(|row| {
        format!(
            "{} not an address: {}\n",
            text(&row["address"]),
            text(&row["reason"])
        )
    });
    not_active.chain(refused).collect()
}

fn describe(answer: &Value) -> String {
    let mut lines = vec![
        ("address", text(&answer["address"])),
        ("account", text(&answer["account"])),
    ];
    lines.push(("standing", text(&answer["standing"])));
    for key in ["since", "until", "reason"] {
        if !answer[key].is_null() {
            lines.push((key, text(&answer[key])));
        }
    }
    let job = &answer["job"];
    if job.is_object() {
        let next = match (
            job["due"].as_str(),
            job["leased_until"].as_str(),
            job["quarantined_since"].as_str(),
        ) {
            (Some(due), _, _) => format!("due {due}"),
            (_, _, Some(since)) => format!("in quarantine since {since}"),
            (_, until, _) => format!(
                "under way, leased until {}",
                until.unwrap_or("an unknown time")
            ),
        };
        let waiting = job["messages"].as_array().map_or(0, Vec::len);
        lines.push((
            "job",
            format!(
                "attempt {} of {}, {next}",
                text(&job["attempt"]),
                text(&job["max_attempts"])
            ),
        ));
        lines.extend(waits_for(job).map(|reason| ("waits for", reason)));
        lines.push((
            "policy",
            format!("{} at {}", text(&job["policy"]), text(&job["destination"])),
        ));
        lines.push(("messages", waiting.to_string()));
        for attempt in job["history"].as_array().into_iter().flatten() {
            lines.push((
                "tried",
                format!("{} {}", text(&attempt["at"]), text(&attempt["reply"])),
            ));
            lines.extend(trace(attempt).map(|trace| ("", trace)));
        }
    }
    lines
        .into_iter()
        .map(|(key, value)| format!("{key:<12} {value}\n"))
        .collect()
}

/// Returns the link to the trace of an attempt, or the trace's id if no trace viewer is configured.
/// `None` if the attempt was not traced.
pub(crate) fn trace(attempt: &Value) -> Option<String> {
    let url = attempt["trace_url"].as_str().map(str::to_owned);
    url.or_else(|| Some(format!("trace {}", attempt["trace_id"].as_str()?)))
}

/// Returns what a due job waits for, in words. Returns `None` if the job waits only for its due
/// time, for the end of its attempt, or in quarantine, because the line `job` shows this already.
pub(crate) fn waits_for(job: &Value) -> Option<String> {
    let (waits_for, destination) = (&job["waits_for"], text(&job["destination"]));
    let until = waits_for["until"].as_str();
    Some(match waits_for["what"].as_str()? {
        "hold" => {
            let until = until.map_or("it is released".to_owned(), |until| {
                format!("{until}, or it is released")
            });
            format!(
                "{destination}, which is held until {until}: {}",
                text(&waits_for["reason"])
            )
        }
        "breaker" => match until {
            Some(until) => {
                format!("{destination}, which is down: its breaker is open until {until}")
            }
            None => {
                format!(
                    "{destination}, which was down: one attempt is under way, \
                     and the others wait for its result"
                )
            }
        },
        "silence" => format!(
            "a bounce of mail that a relay accepted; without a bounce it counts as delivered at {}",
            until?
        ),
        "window" => {
            format!("room at {destination}: it has as many attempts under way as its window allows")
        }
        "rate" => format!(
            "the rate of {destination}: the next attempt may go out at {}",
            until?
        ),
        "turn" => "its turn: a worker takes it soon".to_owned(),
        "worker" => "a worker: none is running".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_a_check_says_how_many_addresses_to_leave_out() {
        assert_eq!(summary(2, 0), "2 checked, all active");
        assert_eq!(summary(3, 1), "3 checked, 1 to leave out");
    }
}
