//! What comes in one by one or many at once: one object, an array, or NDJSON of any length. Each
//! item gets its own answer, in the form and order in which it came.

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use futures::StreamExt;
use serde::Serialize;
use serde_json::Value;
use store::error::StoreError;
use tokio::time::timeout;

use super::Api;
use super::problem::Problem;
use crate::intake::accept::SentTo;
use crate::intake::json::Refusal;
use crate::intake::json::unique::Parsed;

pub mod answers;
mod document;
mod lines;

/// The content type of one JSON document.
pub(super) const DOCUMENT: &str = "application/json";

/// The content type of items that are a line each.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// Something with an answer of its own.
pub(super) trait Item: Sized + Send + 'static {
    /// What several of them are called.
    const PLURAL: &'static str;

    /// What becomes of one.
    type Answer: Serialize + Send + 'static;

    /// Reads one.
    fn read(api: &Api, item: Value) -> Result<Self, Refusal>;

    /// Reads the text of one.
    fn read_text(api: &Api, text: &[u8]) -> Result<Self, Refusal> {
        Self::read(api, Parsed::read(text)?)
    }

    /// Takes in a batch, and answers each in the order given. What workers still send to is waited
    /// for when all of the request is in, so that nothing else waits for it.
    fn take_in(
        api: &Api,
        batch: Vec<Self>,
    ) -> impl Future<Output = Result<(Vec<Self::Answer>, SentTo), StoreError>> + Send;
}

/// How many items of a request were read, and how many of these were refused.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    read: usize,
    refused: usize,
}

/// Takes in a request of items, in whatever form it came.
pub(super) async fn take_in<I: Item>(api: &Api, request: Request) -> Result<Response, Problem> {
    let is_document = is_document(request.headers())?;
    let body = request.into_body();
    if is_document {
        document::take_in::<I>(api, body).await
    } else {
        lines::take_in::<I>(api, body).await
    }
}

/// The whole of a body, within `scheduler.body_max`.
pub(super) async fn collect(api: &Api, body: Body) -> Result<Vec<u8>, Problem> {
    let limit = api.limits.body;
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = next_chunk(api, &mut chunks).await? {
        if bytes.len() + chunk.len() > limit {
            return Err(Problem::too_large(format!(
                "a document may have {limit} bytes (scheduler.body_max)"
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The content type without its parameters, in lower case.
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
            "content type \"{other}\"; send application/json (an object or an array) or {NDJSON} (one object per line)"
        ))),
    }
}

/// The next piece of a body; `None` at its end. A client that stands still is not waited for
/// without end.
async fn next_chunk(api: &Api, chunks: &mut BodyDataStream) -> Result<Option<Bytes>, Problem> {
    match timeout(api.limits.idle, chunks.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
        Ok(Some(Err(err))) => Err(Problem::bad_request(format!("the body broke off: {err}"))),
        Err(_) => Err(Problem::timed_out(format!(
            "nothing of the body came for {:?}",
            api.limits.idle
        ))),
    }
}

/// Takes in one batch, and gives `each` the answer to each item as JSON, in order.
async fn answer<I: Item>(
    api: &Api,
    items: Vec<Result<I, Refusal>>,
    mut each: impl FnMut(&mut Vec<u8>),
    answers: &mut Vec<u8>,
) -> Result<(Tally, SentTo), StoreError> {
    let mut tally = Tally {
        read: items.len(),
        refused: 0,
    };
    let mut batch = Vec::with_capacity(items.len());
    let mut refusals = Vec::new();
    for (place, item) in items.into_iter().enumerate() {
        match item {
            Ok(item) => batch.push(item),
            Err(refusal) => refusals.push((place, refusal)),
        }
    }
    tally.refused = refusals.len();
    let (answered, sent_to) = I::take_in(api, batch).await?;
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
        each(answers);
    }
    Ok((tally, sent_to))
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

    fn status(&self) -> StatusCode {
        if self.refused == self.read {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::ACCEPTED
        }
    }
}
