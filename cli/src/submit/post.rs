//! Posts a batch until it is answered. If the scheduler is unavailable or overloaded, the items are
//! posted again. Posting a bounce or a fact twice does no harm.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use reqwest::{Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::input::{Batch, Item};
use super::line::{Kind, recipient};
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

/// Posts a batch. Returns an answer for each item. Lines that hold no item are refused here.
///
/// The items about one address keep their order: a bounce from before a delivery must not come
/// after it, because it would then be taken for an old one.
///
/// # Errors
/// If the scheduler rejects a request for good, or did not answer for all of `patience`.
pub(super) async fn post(api: &Api, batch: &Batch, patience: Duration) -> Result<Vec<Value>> {
    let mut answers = vec![Value::Null; batch.items.len()];
    for (item, answer) in batch.items.iter().zip(&mut answers) {
        if let Err(why) = &item.body {
            *answer = json!({"answer": "refused", "reason": why});
        }
    }
    for round in rounds(&batch.items) {
        for (kind, places) in [(Kind::Bounce, round.bounces), (Kind::Fact, round.facts)] {
            let bodies: Vec<&[u8]> = places
                .iter()
                .filter_map(|place| batch.items[*place].body.as_deref().ok())
                .collect();
            if bodies.is_empty() {
                continue;
            }
            let answered = post_items(api, kind, &bodies, patience).await?;
            for (place, answer) in places.into_iter().zip(answered) {
                answers[place] = answer;
            }
        }
    }
    Ok(answers)
}

/// The indexes of items of a batch. The items of one round may be posted in any order.
#[derive(Debug, Default, PartialEq)]
struct Round {
    bounces: Vec<usize>,
    facts: Vec<usize>,
}

/// Divides a batch into rounds, which are posted one after the other. Within a round, no address
/// has both bounces and facts. Nearly all batches are a single round.
fn rounds(items: &[Item]) -> Vec<Round> {
    let of_kind = |kind: Kind| {
        let places = items.iter().enumerate();
        places
            .filter(move |(_, item)| item.kind == kind && item.body.is_ok())
            .map(|(place, _)| place)
    };
    if of_kind(Kind::Bounce).next().is_none() || of_kind(Kind::Fact).next().is_none() {
        return vec![Round {
            bounces: of_kind(Kind::Bounce).collect(),
            facts: of_kind(Kind::Fact).collect(),
        }];
    }
    let mut rounds = Vec::new();
    let mut round = Round::default();
    let (mut bounced, mut reported) = (HashSet::new(), HashSet::new());
    for (place, item) in items.iter().enumerate() {
        let Ok(body) = &item.body else { continue };
        let about = recipient(body);
        let others = match item.kind {
            Kind::Bounce => &reported,
            Kind::Fact => &bounced,
        };
        if others.contains(&about) {
            rounds.push(std::mem::take(&mut round));
            bounced.clear();
            reported.clear();
        }
        match item.kind {
            Kind::Bounce => {
                round.bounces.push(place);
                bounced.insert(about);
            }
            Kind::Fact => {
                round.facts.push(place);
                reported.insert(about);
            }
        }
    }
    rounds.push(round);
    rounds
}

/// Posts items of one kind, one per line, and returns the answer to each. Retries until `patience`
/// is over.
async fn post_items(
    api: &Api,
    kind: Kind,
    bodies: &[&[u8]],
    patience: Duration,
) -> Result<Vec<Value>> {
    let mut request = bodies.join(&b'\n');
    request.push(b'\n');
    let deadline = Instant::now() + patience;
    let mut pause = PAUSE;
    loop {
        let why = match try_once(api, kind, request.clone()).await? {
            Try::Answered(answers) if answers.len() == bodies.len() => return Ok(answers),
            Try::Answered(answers) => {
                bail!(
                    "{} {} were sent, but {} answers came; is the URL right? It is from {}",
                    bodies.len(),
                    kind.collection(),
                    answers.len(),
                    api.origin()
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
        tracing::debug!(%why, "the items are posted again soon");
        sleep(pause).await;
        pause = (2 * pause).clamp(PAUSE, PAUSE_MAX);
    }
}

async fn try_once(api: &Api, kind: Kind, body: Vec<u8>) -> Result<Try> {
    let response = match api.post(kind.collection(), &[], NDJSON, body).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn item(kind: Kind, address: &str) -> Item {
        Item {
            line: 1,
            raw: Vec::new(),
            kind,
            body: Ok(json!({"recipient": address}).to_string().into_bytes()),
        }
    }

    #[test]
    fn items_about_one_address_keep_their_order_and_the_others_go_together() {
        use Kind::{Bounce, Fact};
        let (jo, sam) = ("jo@example.com", "sam@example.com");
        let round = |bounces: &[usize], facts: &[usize]| Round {
            bounces: bounces.to_vec(),
            facts: facts.to_vec(),
        };
        for (items, expected) in [
            (
                vec![(Bounce, jo), (Fact, sam), (Bounce, jo)],
                vec![round(&[0, 2], &[1])],
            ),
            (
                vec![
                    (Bounce, jo),
                    (Fact, "jo@EXAMPLE.com"),
                    (Fact, sam),
                    (Bounce, jo),
                ],
                vec![round(&[0], &[]), round(&[], &[1, 2]), round(&[3], &[])],
            ),
            (vec![(Fact, jo), (Fact, jo)], vec![round(&[], &[0, 1])]),
            (vec![], vec![Round::default()]),
        ] {
            let items: Vec<Item> = items.into_iter().map(|(kind, to)| item(kind, to)).collect();
            assert_eq!(rounds(&items), expected);
        }
    }
}
