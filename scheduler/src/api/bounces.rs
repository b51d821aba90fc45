//! `POST /v1/bounces`: one object, an array, or NDJSON of any length. Each bounce gets its own answer, in the form and
//! order in which it came. Facts come in the same forms.

use std::fmt;
use std::io::{self, Seek, Write};
use std::mem;

use axum::Json;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;
use shared::bounce::Bounce;
use shared::store::{BATCH_BYTES_MAX, StoreError};
use tempfile::SpooledTempFile;
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use super::Api;
use super::problem::Problem;
use crate::intake::accept::Answered;
use crate::intake::json::{Refusal, read};
use crate::intake::lines::{Line, Lines};

const NDJSON: &str = "application/x-ndjson";

/// What a request came in as.
enum Form {
    Document,
    Lines,
}

/// A request that is one JSON document.
enum Document {
    One(Value),
    Many(Vec<Value>),
}

/// Answers to one request.
#[derive(Default)]
struct Tally {
    read: usize,
    refused: usize,
}

/// What comes in one by one or many at once, each with an answer of its own.
pub(super) trait Item: Sized + Send {
    /// What several of them are called.
    const PLURAL: &'static str;

    /// Reads one.
    fn read(api: &Api, item: Value) -> Result<Self, Refusal>;

    /// Takes in a batch, and answers each in the order given.
    fn take_in(api: &Api, batch: Vec<Self>) -> impl Future<Output = Result<Vec<Value>, StoreError>> + Send;
}

/// `POST /v1/bounces`.
pub async fn post(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    take_in::<Bounce>(&api, request).await
}

/// Takes in a request of items, in whatever form it came.
pub(super) async fn take_in<I: Item>(api: &Api, request: Request) -> Result<Response, Problem> {
    match form(request.headers())? {
        Form::Document => document::<I>(api, request.into_body()).await,
        Form::Lines => lines::<I>(api, request.into_body()).await,
    }
}

impl Item for Bounce {
    const PLURAL: &'static str = "bounces";

    fn read(api: &Api, item: Value) -> Result<Self, Refusal> {
        let bounce = read(item, api.store.clock().now(), api.limits.inline)?;
        match &bounce.message.route {
            Some(route) if !api.routes.contains(route) => Err(Refusal::unknown_route(route, &api.routes)),
            _ => Ok(bounce),
        }
    }

    async fn take_in(api: &Api, batch: Vec<Self>) -> Result<Vec<Value>, StoreError> {
        let answered = api.accept.accept(batch).await?;
        Ok(answered.iter().map(Answered::to_wire).collect())
    }
}

fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Ok(Form::Document),
        NDJSON | "application/ndjson" | "application/jsonl" => Ok(Form::Lines),
        other => Err(Problem::unsupported(format!(
            "content type \"{other}\"; send application/json (an object or an array) or {NDJSON} (one object per line)"
        ))),
    }
}

async fn document<I: Item>(api: &Api, body: Body) -> Result<Response, Problem> {
    let bytes = collect(api, body).await?;
    let document = Document::read(&bytes, api.limits.items, I::PLURAL)?;
    drop(bytes);
    let mut tally = Tally::default();
    let wire = match document {
        Document::Many(items) => {
            let mut answers = Vec::with_capacity(items.len());
            let mut items = items.into_iter().map(|item| I::read(api, item)).peekable();
            while items.peek().is_some() {
                let batch = items.by_ref().take(api.limits.batch).collect();
                answers.extend(answer(api, batch, &mut tally).await?);
            }
            Value::Array(answers)
        }
        Document::One(item) => answer(api, vec![I::read(api, item)], &mut tally).await?.swap_remove(0),
    };
    Ok((tally.status(), Json(wire)).into_response())
}

/// The next piece of a body; `None` at its end. A client that stands still is not waited for without end.
async fn next_chunk(api: &Api, chunks: &mut BodyDataStream) -> Result<Option<Bytes>, Problem> {
    match timeout(api.limits.idle, chunks.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
        Ok(Some(Err(err))) => Err(Problem::bad_request(format!("the body broke off: {err}"))),
        Err(_) => Err(Problem::timed_out(format!("nothing of the body came for {:?}", api.limits.idle))),
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
                "a document may have {limit} bytes; send more bounces as {NDJSON}"
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Reads the whole stream before it answers, because many clients do not read an answer while they still write: the two
/// would wait for each other for ever. The answers wait in memory, and beyond a bound in a temporary file.
async fn lines<I: Item>(api: &Api, body: Body) -> Result<Response, Problem> {
    let mut chunks = body.into_data_stream();
    let mut lines = Lines::new(api.limits.line);
    let mut tally = Tally::default();
    let mut answers = SpooledTempFile::new(api.limits.answers);
    let (mut batch, mut batch_bytes) = (Vec::new(), 0);
    loop {
        let chunk = next_chunk(api, &mut chunks).await?;
        let mut complete = Vec::new();
        match &chunk {
            Some(chunk) => lines.push(chunk, |line| complete.push(line)),
            None => lines.finish(|line| complete.push(line)),
        }
        for (number, line) in complete {
            batch_bytes += line.size();
            batch.push(read_line::<I>(api, &line).map_err(|refusal| Refusal { line: Some(number), ..refusal }));
            if batch.len() == api.limits.batch || batch_bytes > BATCH_BYTES_MAX {
                batch_bytes = 0;
                write_answers(api, mem::take(&mut batch), &mut tally, &mut answers).await?;
            }
        }
        if chunk.is_none() {
            break;
        }
    }
    write_answers(api, batch, &mut tally, &mut answers).await?;
    if tally.read == 0 {
        return Err(Problem::bad_request(format!("the body holds no {}", I::PLURAL)));
    }
    let body = answers_body(answers).map_err(|err| spool_failed(&err))?;
    Ok((tally.status(), [(header::CONTENT_TYPE, NDJSON)], body).into_response())
}

fn read_line<I: Item>(api: &Api, line: &Line) -> Result<I, Refusal> {
    match line {
        Line::Whole(bytes) => {
            let item = serde_json::from_slice(bytes);
            I::read(api, item.map_err(|err| Refusal::whole(format!("the line is not JSON: {err}")))?)
        }
        Line::TooLong => Err(Refusal::whole(format!("the line is longer than {} bytes", api.limits.line))),
    }
}

async fn write_answers<I: Item>(
    api: &Api,
    items: Vec<Result<I, Refusal>>,
    tally: &mut Tally,
    answers: &mut SpooledTempFile,
) -> Result<(), Problem> {
    // One write per batch: beyond the bound the answers go to a file, where each write is a system call.
    let lines: String = answer(api, items, tally).await?.iter().map(|wire| format!("{wire}\n")).collect();
    answers.write_all(lines.as_bytes()).map_err(|err| spool_failed(&err))
}

fn answers_body(mut answers: SpooledTempFile) -> io::Result<Body> {
    answers.rewind()?;
    match answers.into_inner() {
        tempfile::SpooledData::InMemory(cursor) => Ok(Body::from(cursor.into_inner())),
        tempfile::SpooledData::OnDisk(file) => {
            Ok(Body::from_stream(ReaderStream::new(tokio::fs::File::from_std(file))))
        }
    }
}

fn spool_failed(err: &io::Error) -> Problem {
    Problem::from(StoreError::Refused(format!("answers could not be kept: {err}")))
}

/// Takes in one batch and answers each item, in order.
async fn answer<I: Item>(
    api: &Api,
    items: Vec<Result<I, Refusal>>,
    tally: &mut Tally,
) -> Result<Vec<Value>, StoreError> {
    tally.read += items.len();
    tally.refused += items.iter().filter(|item| item.is_err()).count();
    let mut refusals = Vec::new();
    let mut batch = Vec::new();
    for item in items {
        match item {
            Ok(item) => {
                batch.push(item);
                refusals.push(None);
            }
            Err(refusal) => refusals.push(Some(refusal.to_wire())),
        }
    }
    let mut answered = I::take_in(api, batch).await?.into_iter();
    let in_order = refusals.into_iter().map(|refusal| refusal.or_else(|| answered.next()));
    Ok(in_order.map(|wire| wire.expect("there is one answer per item")).collect())
}

impl Tally {
    fn status(&self) -> StatusCode {
        if self.refused == self.read { StatusCode::BAD_REQUEST } else { StatusCode::ACCEPTED }
    }
}

impl Document {
    /// Reads a document of at most so many items. The bound is kept while reading, because items of a few bytes become
    /// many times as large in memory.
    fn read(bytes: &[u8], items_max: usize, plural: &str) -> Result<Self, Problem> {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        let read = if first == Some(&b'[') {
            Items { max: items_max }.deserialize(&mut reader).map(Self::Many)
        } else {
            Value::deserialize(&mut reader).map(Self::One)
        };
        match read.and_then(|document| reader.end().map(|()| document)) {
            Ok(Self::Many(items)) if items.is_empty() => {
                Err(Problem::bad_request(format!("the array holds no {plural}")))
            }
            Ok(Self::Many(items)) if items.len() > items_max => {
                Err(Problem::too_large(format!("an array may have {items_max} {plural}; send more as {NDJSON}")))
            }
            Ok(document) => Ok(document),
            Err(err) => {
                Err(Problem::bad_request(format!("the body is not JSON: {err}; {NDJSON} is another content type")))
            }
        }
    }
}

/// Reads an array, and of what is more than `max` items only that it is there.
struct Items {
    max: usize,
}

impl<'de> DeserializeSeed<'de> for Items {
    type Value = Vec<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Value>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items {
    type Value = Vec<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<Value>, A::Error> {
        let mut items = Vec::new();
        while items.len() <= self.max {
            match sequence.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(items),
            }
        }
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(items)
    }
}
