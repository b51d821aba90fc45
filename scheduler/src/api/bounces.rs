//! `POST /v1/bounces`: one object, an array, or NDJSON of any length. Each bounce gets its own answer, in the form and
//! order in which it came.

use std::io::{self, Seek, Write};

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde_json::Value;
use shared::bounce::Bounce;
use shared::store::StoreError;
use tempfile::SpooledTempFile;
use tokio_util::io::ReaderStream;

use super::Api;
use super::problem::Problem;
use crate::intake::json::{Refusal, read};
use crate::intake::lines::{Line, Lines};

const NDJSON: &str = "application/x-ndjson";

/// What a request came in as.
enum Form {
    Document,
    Lines,
}

/// Answers to one request.
#[derive(Default)]
struct Tally {
    read: usize,
    refused: usize,
}

/// `POST /v1/bounces`.
pub async fn post(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    match form(request.headers())? {
        Form::Document => document(&api, request.into_body()).await,
        Form::Lines => lines(&api, request.into_body()).await,
    }
}

fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Ok(Form::Document),
        NDJSON | "application/ndjson" | "application/jsonl" | "application/json-seq" => Ok(Form::Lines),
        other => Err(Problem::unsupported(format!(
            "content type \"{other}\"; send application/json (an object or an array) or {NDJSON} (one object per line)"
        ))),
    }
}

async fn document(api: &Api, body: Body) -> Result<Response, Problem> {
    let limit = api.limits.body;
    let bytes = to_bytes(body, limit)
        .await
        .map_err(|_| Problem::too_large(format!("a document may have {limit} bytes; send more as {NDJSON}")))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|err| {
        Problem::bad_request(format!("the body is not JSON: {err}; {NDJSON} is another content type"))
    })?;
    drop(bytes);
    let mut tally = Tally::default();
    let wire = match value {
        Value::Array(items) if items.is_empty() => return Err(Problem::bad_request("the array holds no bounces")),
        Value::Array(items) => {
            let mut answers = Vec::with_capacity(items.len());
            let mut items = items.into_iter();
            loop {
                let batch: Vec<_> = items.by_ref().take(api.limits.batch).map(Ok).collect();
                if batch.is_empty() {
                    break Value::Array(answers);
                }
                answers.extend(answer(api, batch, &mut tally).await?);
            }
        }
        item => answer(api, vec![Ok(item)], &mut tally).await?.swap_remove(0),
    };
    Ok((tally.status(), Json(wire)).into_response())
}

/// Reads the whole stream before it answers, because many clients do not read an answer while they still write: the two
/// would wait for each other for ever. The answers wait in memory, and beyond a bound in a temporary file.
async fn lines(api: &Api, body: Body) -> Result<Response, Problem> {
    let mut chunks = body.into_data_stream();
    let mut lines = Lines::new(api.limits.line);
    let mut tally = Tally::default();
    let mut answers = SpooledTempFile::new(api.limits.answers);
    let mut batch = Vec::with_capacity(api.limits.batch);
    loop {
        let chunk = chunks.next().await;
        let ended = chunk.is_none();
        let mut complete = Vec::new();
        match chunk {
            Some(Ok(chunk)) => lines.push(&chunk, |line| complete.push(line)),
            Some(Err(err)) => return Err(Problem::bad_request(format!("the body broke off: {err}"))),
            None => lines.finish(|line| complete.push(line)),
        }
        for line in complete {
            batch.push(read_line(&line, api.limits.line));
            if batch.len() == api.limits.batch {
                write_answers(api, std::mem::take(&mut batch), &mut tally, &mut answers).await?;
            }
        }
        if ended {
            break;
        }
    }
    write_answers(api, batch, &mut tally, &mut answers).await?;
    if tally.read == 0 {
        return Err(Problem::bad_request("the body holds no bounces"));
    }
    let body = answers_body(answers).map_err(|err| spool_failed(&err))?;
    Ok((tally.status(), [(header::CONTENT_TYPE, NDJSON)], body).into_response())
}

fn read_line(line: &Line, max: usize) -> Result<Value, Refusal> {
    match line {
        Line::Whole(bytes) => {
            serde_json::from_slice(bytes).map_err(|err| Refusal::whole(format!("the line is not JSON: {err}")))
        }
        Line::TooLong => Err(Refusal::whole(format!("the line is longer than {max} bytes"))),
    }
}

async fn write_answers(
    api: &Api,
    items: Vec<Result<Value, Refusal>>,
    tally: &mut Tally,
    answers: &mut SpooledTempFile,
) -> Result<(), Problem> {
    for wire in answer(api, items, tally).await? {
        writeln!(answers, "{wire}").map_err(|err| spool_failed(&err))?;
    }
    Ok(())
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
async fn answer(api: &Api, items: Vec<Result<Value, Refusal>>, tally: &mut Tally) -> Result<Vec<Value>, StoreError> {
    let now = api.store.clock().now();
    let items: Vec<Result<Bounce, Refusal>> =
        items.into_iter().map(|item| item.and_then(|value| read(value, now, api.limits.inline))).collect();
    tally.read += items.len();
    tally.refused += items.iter().filter(|item| item.is_err()).count();
    let mut refusals = Vec::new();
    let mut bounces = Vec::new();
    for item in items {
        match item {
            Ok(bounce) => {
                bounces.push(bounce);
                refusals.push(None);
            }
            Err(refusal) => refusals.push(Some(refusal.to_wire())),
        }
    }
    let mut answered = api.accept.accept(bounces).await?.into_iter();
    let in_order = refusals.into_iter().map(|refusal| refusal.or_else(|| Some(answered.next()?.to_wire())));
    Ok(in_order.map(|wire| wire.expect("there is one answer per bounce")).collect())
}

impl Tally {
    fn status(&self) -> StatusCode {
        if self.refused == self.read { StatusCode::BAD_REQUEST } else { StatusCode::ACCEPTED }
    }
}
