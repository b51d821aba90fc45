//! Requests with one or many items: one object, an array, or NDJSON of any length. Each item gets
//! its own answer, in the form and order of the request. [`Item`] defines what an item is.

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use domain::account::Account;
use futures::StreamExt;
use serde::Serialize;
use serde_json::Value;
use store::error::StoreError;
use tokio::time::timeout;

use super::Api;
use super::problem::Problem;
use crate::access::caller::Caller;
use crate::intake::accept::StillSentTo;
use crate::intake::json::Refusal;
use crate::intake::json::unique::Parsed;

pub mod answers;
mod document;
mod lines;

/// The content type of one JSON document.
pub(super) const DOCUMENT: &str = "application/json";

/// The content type of a request with one item per line.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// One item of a request. It gets an answer of its own.
pub(super) trait Item: Sized + Send + 'static {
    /// What several items are called in error texts, like `bounces`.
    const PLURAL: &'static str;

    /// The answer to one item.
    type Answer: Serialize + Send + 'static;

    /// Reads one item.
    fn read(api: &Api, item: Value) -> Result<Self, Refusal>;

    /// Reads the text of one item.
    fn read_text(api: &Api, text: &[u8]) -> Result<Self, Refusal> {
        Self::read(api, Parsed::read(text)?)
    }

    /// Returns the account that the item is about.
    fn account(&self) -> &Account;

    /// Processes a batch of this caller. Returns one answer for each item, in the order given, and
    /// the addresses that workers may still be sending to. Those workers are waited for at the end
    /// of the request, so that no other item waits for them.
    fn process(
        api: &Api,
        caller: &Caller,
        batch: Vec<Self>,
    ) -> impl Future<Output = Result<(Vec<Self::Answer>, StillSentTo), StoreError>> + Send;
}

/// How many items of a request were read, and how many of these were refused.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    read: usize,
    refused: usize,
}

/// Processes a request of items in any of the forms.
pub(super) async fn receive<I: Item>(
    api: &Api,
    caller: &Caller,
    request: Request,
) -> Result<Response, Problem> {
    let is_document = is_document(request.headers())?;
    let body = request.into_body();
    if is_document {
        document::receive::<I>(api, caller, body).await
    } else {
        lines::receive::<I>(api, caller, body).await
    }
}

/// Reads a whole body. It must be within `scheduler.body_max`.
pub(super) async fn collect(api: &Api, body: Body) -> Result<Vec<u8>, Problem> {
    let limit = api.limits.body;
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = next_chunk(api, &mut chunks).await? {
        if bytes.len() + chunk.len() > limit {
            return Err(Problem::too_large(format!(
                "the document is longer than {limit} bytes (scheduler.body_max)"
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Returns the content type without its parameters, in lower case.
pub(super) fn essence(headers: &HeaderMap) -> String {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

fn is_document(headers: &HeaderMap) -> Result<bool, Problem> {
    match essence(headers).as_str() {
        DOCUMENT => Ok(true),
        NDJSON | "application/ndjson" | "application/jsonl" => Ok(false),
        other => Err(Problem::unsupported(format!(
            "the content type \"{other}\" is not supported; \
             send {DOCUMENT} (an object or an array) or {NDJSON} (one object per line)"
        ))),
    }
}

/// Returns the next piece of a body, or `None` at its end. Fails if the client sends nothing for
/// too long.
async fn next_chunk(api: &Api, chunks: &mut BodyDataStream) -> Result<Option<Bytes>, Problem> {
    match timeout(api.limits.idle, chunks.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
        Ok(Some(Err(err))) => Err(Problem::bad_request(format!(
            "the body is incomplete: {err}"
        ))),
        Err(_) => Err(Problem::timed_out(format!(
            "nothing of the body arrived for {:?}",
            api.limits.idle
        ))),
    }
}

/// Refuses an item of an account that the caller may not act for.
fn check_account<I: Item>(caller: &Caller, item: I) -> Result<I, Refusal> {
    let (account, accounts) = (item.account(), caller.accounts());
    if accounts.allow(account) {
        Ok(item)
    } else {
        Err(Refusal::of_account(account, accounts))
    }
}

/// Processes one batch. Writes the answer to each item as JSON to `answers`, in order, and calls
/// `end_answer` after each.
async fn answer_batch<I: Item>(
    api: &Api,
    caller: &Caller,
    items: Vec<Result<I, Refusal>>,
    mut end_answer: impl FnMut(&mut Vec<u8>),
    answers: &mut Vec<u8>,
) -> Result<(Tally, StillSentTo), StoreError> {
    let mut tally = Tally {
        read: items.len(),
        refused: 0,
    };
    let mut batch = Vec::with_capacity(items.len());
    let mut refusals = Vec::new();
    for (place, item) in items.into_iter().enumerate() {
        match item.and_then(|item| check_account(caller, item)) {
            Ok(item) => batch.push(item),
            Err(refusal) => refusals.push((place, refusal)),
        }
    }
    tally.refused = refusals.len();
    let (answered, still_sent_to) = I::process(api, caller, batch).await?;
    let mut answered = answered.into_iter();
    let mut refusals = refusals.into_iter().peekable();
    for place in 0..tally.read {
        match refusals.next_if(|(refused, _)| *refused == place) {
            Some((_, refusal)) => write_json(answers, &refusal.to_wire()),
            None => write_json(
                answers,
                &answered.next().expect("there is one answer per item"),
            ),
        }
        end_answer(answers);
    }
    Ok((tally, still_sent_to))
}

fn write_json(bytes: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(bytes, value)
        .expect("answers are texts and instants, which always serialize");
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.read += other.read;
        self.refused += other.refused;
    }

    /// Returns 400 if every item was refused, or there was none.
    fn status(&self) -> StatusCode {
        if self.refused == self.read {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::ACCEPTED
        }
    }
}
