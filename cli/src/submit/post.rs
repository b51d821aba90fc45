//! Posts a batch until it is answered. If the scheduler is unavailable or overloaded, the batch is
//! posted again. Posting a bounce twice does no harm.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use reqwest::{Response, StatusCode, header};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::api::Api;

const NDJSON: &str = "application/x-ndjson";

/// The first pause before a retry, if the scheduler asks for no other. It is doubled each time.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The statuses after which the batch is posted again.
const RETRIED: [StatusCode; 4] = [
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::INSUFFICIENT_STORAGE,
];

/// The result of one try.
enum Try {
    Answered(Vec<Value>),
    /// A failure to retry, with the pause that the scheduler asks for, and the reason.
    Retry(Option<Duration>, anyhow::Error),
}

/// Posts bounces, one per line, and returns the answer to each. Retries until `patience` is over.
///
/// # Errors
/// If the scheduler rejects the request for good, or did not answer for all that time.
pub(super) async fn post(api: &Api, bounces: &[&[u8]], patience: Duration) -> Result<Vec<Value>> {
    let mut body = bounces.join(&b'\n');
    body.push(b'\n');
    let deadline = Instant::now() + patience;
    let mut pause = PAUSE;
    loop {
        let why = match try_once(api, body.clone()).await? {
            Try::Answered(answers) if answers.len() == bounces.len() => return Ok(answers),
            Try::Answered(answers) => {
                bail!(
                    "{} bounces were sent, but {} answers came; is --api right?",
                    bounces.len(),
                    answers.len()
                )
            }
            Try::Retry(retry_after, why) => {
                pause = retry_after.unwrap_or(pause);
                why
            }
        };
        if Instant::now() + pause > deadline {
            return Err(why);
        }
        tracing::debug!(%why, "the batch is posted again soon");
        sleep(pause).await;
        pause = (2 * pause).clamp(PAUSE, PAUSE_MAX);
    }
}

async fn try_once(api: &Api, body: Vec<u8>) -> Result<Try> {
    let response = match api.post("bounces", &[], NDJSON, body).await {
        Ok(response) => response,
        Err(err) => return Ok(Try::Retry(None, err)),
    };
    let status = response.status();
    let content_type = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    if content_type.is_some_and(|kind| kind.starts_with(NDJSON)) {
        return match response.text().await {
            Ok(text) => Ok(Try::Answered(
                text.lines()
                    .map(serde_json::from_str)
                    .collect::<Result<_, _>>()?,
            )),
            Err(err) => Ok(Try::Retry(None, err.into())),
        };
    }
    let is_retried = RETRIED.contains(&status);
    let retry_after = retry_after(&response);
    let detail = response
        .json::<Value>()
        .await
        .ok()
        .and_then(|problem| Some(problem["detail"].as_str()?.to_owned()));
    let why = anyhow!(
        "the scheduler answers {status}: {}",
        detail.unwrap_or_else(|| "it gives no reason".to_owned())
    );
    if is_retried {
        Ok(Try::Retry(retry_after, why))
    } else {
        Err(why)
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response
        .headers()
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(PAUSE_MAX))
}
