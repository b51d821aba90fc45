//! `redeliver quarantine`: lists the jobs in quarantine, and releases one. It uses the API.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use domain::clock::{Clock, Timestamp};
use domain::job::JobId;
use reqwest::Method;
use serde_json::Value;
use system::clock::SystemClock;

use crate::api::{Api, Call, read_job, text};
use crate::instants::distance;
use crate::page::Page;
use crate::process;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the jobs in quarantine, those that are there longest first
    List(Page),
    /// Take a job out of quarantine: it is due now
    Release {
        /// The job, account/address, or an address of the default account
        job: String,

        #[command(flatten)]
        api: Api,
    },
}

pub(crate) async fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.action {
        Action::List(page) => page.print("quarantine", list).await?,
        Action::Release { job, api } => {
            let JobId { account, recipient } = read_job(job)?;
            let path = ["quarantine", recipient.as_str(), "release"];
            let query = [("account", account.to_string())];
            let call = Call {
                method: Method::POST,
                path: &path,
                query: &query,
                body: None,
            };
            let answer = api.call(call).await?;
            let described = || {
                format!(
                    "{} is due now at {}\n",
                    text(&answer["job"]),
                    text(&answer["destination"])
                )
            };
            process::print(&if api.json {
                format!("{answer}\n")
            } else {
                described()
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(answer: &Value) -> String {
    let jobs = answer["jobs"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if jobs.is_empty() && answer["next"].is_null() {
        return "no job is in quarantine\n".to_owned();
    }
    let now = SystemClock.now();
    let mut lines = format!(
        "{:<12} {:<6} {:<32} JOB\n",
        "SINCE", "LAPSES", "DESTINATION"
    );
    for job in jobs {
        let destination = text(&job["destination"]);
        let since = job["since"].as_str().and_then(Timestamp::parse);
        let since = since.map_or("?".to_owned(), |since| distance(since, now));
        let lapses = job["lapses"]
            .as_u64()
            .map_or("?".to_owned(), |lapses| lapses.to_string());
        lines.push_str(&format!(
            "{since:<12} {lapses:<6} {destination:<32} {}\n",
            text(&job["job"])
        ));
    }
    if let Some(next) = answer["next"].as_str() {
        lines.push_str(&format!("there may be more: --after '{next}'\n"));
    }
    lines
}
