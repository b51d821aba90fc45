//! `redeliver addresses`: shows what is known about addresses, and changes their standing. It uses
//! the scheduler's API only.

use std::io::{self, BufRead};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{Api, Call, read_job, text};
use crate::instants::instant;
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
    Suppress {
        #[command(flatten)]
        address: AddressArg,

        /// Why, for other operators: it is shown with the address, and in the event
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
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
        Action::Show(address) => address.call(Method::GET, None, None).await?,
        Action::Suppress { address, reason } => {
            let body = reason.as_ref().map(|reason| json!({"reason": reason}));
            address.call(Method::POST, Some("suppress"), body).await?;
        }
        Action::Reinstate(address) => {
            address.call(Method::POST, Some("reinstate"), None).await?;
        }
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
    async fn call(&self, method: Method, action: Option<&str>, body: Option<Value>) -> Result<()> {
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
                body,
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
        let until = match &row["until"] {
            Value::Null => String::new(),
            until => format!(" until {}", instant(until)),
        };
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
    for key in ["since", "until"] {
        if !answer[key].is_null() {
            lines.push((key, instant(&answer[key])));
        }
    }
    if !answer["reason"].is_null() {
        lines.push(("reason", text(&answer["reason"])));
    }
    lines.extend(evidence(&answer["evidence"]));
    let job = &answer["job"];
    if job.is_object() {
        let at = |key: &str| Some(instant(&job[key])).filter(|at| !at.is_empty());
        let next = match (at("due"), at("leased_until"), at("quarantined_since")) {
            (Some(due), _, _) => format!("due {due}"),
            (_, _, Some(since)) => format!("in quarantine since {since}"),
            (_, Some(until), _) => format!("under way, leased until {until}"),
            (_, None, _) => "under way".to_owned(),
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
                format!("{} {}", instant(&attempt["at"]), text(&attempt["reply"])),
            ));
            lines.extend(trace(attempt).map(|trace| ("", trace)));
        }
    }
    lines
        .into_iter()
        .map(|(key, value)| format!("{key:<12} {value}\n"))
        .collect()
}

/// Returns the lines about what shows that an address is not active.
fn evidence(evidence: &Value) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if !evidence.is_object() {
        return lines;
    }
    if !evidence["reply"].is_null() {
        lines.push(("reply", text(&evidence["reply"])));
    }
    for key in ["status", "policy"] {
        if !evidence[key].is_null() {
            lines.push((key, text(&evidence[key])));
        }
    }
    if !evidence["note"].is_null() {
        lines.push(("note", text(&evidence["note"])));
    }
    let attempt = evidence["attempt"].as_u64();
    let attempt = attempt.map(|number| format!("attempt {number}, "));
    let host = evidence["remote_mta"].as_str();
    let host = host.map(|host| format!("by {host}, "));
    let learned = match evidence["source"].as_str() {
        Some("attempt") => "in an attempt of this system".to_owned(),
        Some("operator") => "by an operator".to_owned(),
        source => format!("reported by {}", source.unwrap_or("an unknown way")),
    };
    lines.push((
        "learned",
        format!(
            "{}{}{learned} at {}",
            attempt.unwrap_or_default(),
            host.unwrap_or_default(),
            instant(&evidence["at"])
        ),
    ));
    lines
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
    let until = Some(instant(&waits_for["until"])).filter(|until| !until.is_empty());
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
        "route" => format!(
            "route {}, whose server cannot be reached; at the latest it is tried again at {}",
            text(&waits_for["route"]),
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
    fn an_address_that_is_not_active_shows_what_is_known_of_it() {
        let address = |evidence: Value| {
            json!({
                "address": "jo@example.com", "account": "acme", "standing": "inactive",
                "since": "2026-11-22T02:17:09Z", "until": null, "reason": "user-unknown",
                "evidence": evidence, "job": null,
            })
        };
        let evidence = json!({
            "attempt": 2, "at": "2026-11-22T02:17:08Z", "source": "dsn", "status": "5.1.1",
            "remote_mta": "mx.example.com", "reply": "550 5.1.1 No such user",
            "policy": "user-unknown",
        });
        let shown = describe(&address(evidence));
        let at = instant(&json!("2026-11-22T02:17:08Z"));
        let learned = format!("attempt 2, by mx.example.com, reported by dsn at {at}");
        for (key, value) in [
            ("reply", "550 5.1.1 No such user".to_owned()),
            ("status", "5.1.1".to_owned()),
            ("policy", "user-unknown".to_owned()),
            ("learned", learned),
        ] {
            let line = format!("{key:<12} {value}\n");
            assert!(shown.contains(&line), "{line} is missing in:\n{shown}");
        }
        assert!(!describe(&address(Value::Null)).contains("learned"));
    }

    #[test]
    fn an_attempt_under_way_whose_lease_is_not_found_has_no_invented_end() {
        let shown = describe(&json!({
            "address": "jo@example.com", "account": "acme", "standing": "active",
            "evidence": null,
            "job": {
                "attempt": 0, "max_attempts": 4, "due": null, "leased_until": null,
                "quarantined_since": null, "destination": "example.com", "policy": "system-full",
                "messages": [], "history": [],
                "waits_for": {"what": "attempt", "until": null},
            },
        }));
        assert!(shown.contains("attempt 0 of 4, under way\n"), "{shown}");
    }

    #[test]
    fn the_summary_of_a_check_says_how_many_addresses_to_leave_out() {
        assert_eq!(summary(2, 0), "2 checked, all active");
        assert_eq!(summary(3, 1), "3 checked, 1 to leave out");
    }
}
