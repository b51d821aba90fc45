//! `redeliver dsn --submit`: sends reports to a scheduler. A mail server can pipe reports into it:
//! its exit status (`sysexits.h`) asks for another try only if a later try can succeed.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Args;
use reqwest::StatusCode;
use serde_json::Value;

use crate::api::Api;
use crate::process;

/// `EX_DATAERR`: the input is wrong, and another try would fail too.
const EX_DATAERR: u8 = 65;

/// `EX_TEMPFAIL`: try again later.
const EX_TEMPFAIL: u8 = 75;

#[derive(Debug, Args)]
pub(crate) struct Submission {
    /// Send the reports to a scheduler instead of printing their content
    #[arg(long)]
    pub(super) submit: bool,

    /// With --submit: the address that the reports came to
    #[arg(long, value_name = "ADDRESS", requires = "submit")]
    to: Option<String>,

    /// With --submit: the account of the mail if its return path names none
    #[arg(long, requires = "submit")]
    account: Option<String>,

    #[command(flatten)]
    api: Api,
}

/// Sends messages one by one, and prints the answer to each. Returns the exit status of the worst
/// result: a message that must be tried again is worse than a refused message.
pub(super) async fn run(submission: &Submission, messages: &[&[u8]]) -> Result<ExitCode> {
    let mut worst = 0;
    for message in messages {
        let code = match send(submission, message).await {
            Ok((status, answer)) => {
                process::print(&format!("{answer}\n"))?;
                exit_status(status)
            }
            Err(err) => {
                eprintln!("redeliver: {err:#}");
                EX_TEMPFAIL
            }
        };
        worst = worst.max(code);
    }
    Ok(ExitCode::from(worst))
}

async fn send(submission: &Submission, message: &[u8]) -> Result<(StatusCode, Value)> {
    let Submission {
        to, account, api, ..
    } = submission;
    let query: Vec<(&str, String)> = [("to", to), ("account", account)]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.clone()?)))
        .collect();
    let response = api
        .post("dsn", &query, "message/rfc822", message.to_vec())
        .await?;
    let status = response.status();
    let answer = response
        .json()
        .await
        .map_err(|_| anyhow!("the answer is not JSON, so no scheduler sent it; is --api right?"))?;
    Ok((status, answer))
}

/// Returns the exit status for the mail server. A missing permission or a wrong URL is a mistake in
/// the set-up, so the mail server should try the reports again until it is corrected.
fn exit_status(status: StatusCode) -> u8 {
    match status {
        status if status.is_success() => 0,
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => EX_DATAERR,
        _ => EX_TEMPFAIL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_report_that_would_be_refused_again_is_not_tried_again() {
        for (status, code) in [
            (202, 0),
            (400, 65),
            (413, 65),
            (415, 65),
            (422, 65),
            (401, 75),
            (404, 75),
            (408, 75),
            (429, 75),
            (500, 75),
            (503, 75),
        ] {
            assert_eq!(
                exit_status(StatusCode::from_u16(status).unwrap()),
                code,
                "{status}"
            );
        }
    }
}
