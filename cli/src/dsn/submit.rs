//! `redeliver dsn --submit`: hands reports to a scheduler, as a mail server's pipe wants it: what
//! cannot be had now is to be tried again, and only that (exit statuses of `sysexits.h`).

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Args;
use reqwest::StatusCode;
use serde_json::Value;

use crate::api::Api;
use crate::process;

/// `EX_DATAERR`: the input is wrong, and will be so the next time.
const EX_DATAERR: u8 = 65;

/// `EX_TEMPFAIL`: try again later.
const EX_TEMPFAIL: u8 = 75;

#[derive(Debug, Args)]
pub(crate) struct Submission {
    /// Hand the reports to a scheduler instead of printing what they say
    #[arg(long)]
    pub(super) submit: bool,

    /// With --submit: the address that the reports came to
    #[arg(long, value_name = "ADDRESS", requires = "submit")]
    to: Option<String>,

    /// With --submit: the account of mail whose return path does not say
    #[arg(long, requires = "submit")]
    account: Option<String>,

    #[command(flatten)]
    api: Api,
}

/// Hands in messages one by one, and prints what became of each. Ends with the worst that was met:
/// a message that is to be tried again goes before one that was refused.
pub(super) async fn run(submission: &Submission, messages: &[&[u8]]) -> Result<ExitCode> {
    let mut worst = 0;
    for message in messages {
        let code = match hand_in(submission, message).await {
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

async fn hand_in(submission: &Submission, message: &[u8]) -> Result<(StatusCode, Value)> {
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
        .map_err(|_| anyhow!("the answer is not a scheduler's; is --api the right one?"))?;
    Ok((status, answer))
}

/// What a mail server is told. Whoever may not come in, or calls at the wrong door, is set up
/// wrongly: its reports wait until that is put right.
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
    fn only_what_would_be_refused_again_is_not_tried_again() {
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
