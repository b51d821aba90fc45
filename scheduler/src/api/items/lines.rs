//! NDJSON of any length: one item per line. Lines are processed in batches. While one batch is in
//! the store, the next ones are being read. Beyond a bound no more of the body is read, which slows
//! down a client that sends faster.

use std::collections::VecDeque;
use std::mem;
use std::panic;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use store::batch::BATCH_BYTES_MAX;
use store::error::StoreError;
use system::limiter::admit_outage;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinHandle;

use super::answers::{Answers, NotKept};
use super::{Item, NDJSON, Tally, answer_batch, next_chunk};
use crate::access::caller::Caller;
use crate::api::Api;
use crate::api::problem::Problem;
use crate::intake::accept::StillSentTo;
use crate::intake::json::Refusal;
use crate::intake::lines::{Line, Lines, Numbered};

/// How many batches of one request are in progress at once: one in the store, one that is ready to
/// follow it, and one being read.
const UNDER_WAY_MAX: usize = 3;

/// The batches of one request. They are read concurrently, and go to the store one after the other.
struct Batches {
    api: Api,
    caller: Caller,
    under_way: VecDeque<JoinHandle<Result<BatchAnswers, StoreError>>>,
    /// Completes when the batch that was added last is in the store. The next one may then follow.
    last_is_in: oneshot::Receiver<()>,
    tally: Tally,
    still_sent_to: StillSentTo,
    answers: Answers,
    /// The number of the last line up to which all lines are in the store.
    stored_up_to: u64,
}

/// The answers to one batch, one per line.
struct BatchAnswers {
    last_line: u64,
    tally: Tally,
    still_sent_to: StillSentTo,
    lines: Vec<u8>,
}

/// Processes a stream of lines. Reads it to its end before answering, because many clients do not
/// read an answer while they still write: client and server would wait for each other for ever. The
/// answers are kept in memory, and beyond a bound in a temporary file.
pub(super) async fn receive<I: Item>(
    api: &Api,
    caller: &Caller,
    body: Body,
) -> Result<Response, Problem> {
    let mut chunks = body.into_data_stream();
    let mut lines = Lines::new(api.limits.line);
    let mut batches = Batches::new(api.clone(), caller.clone());
    let (mut batch, mut bytes) = (Vec::new(), 0);
    loop {
        let chunk = next_chunk(api, &mut chunks).await?;
        let mut complete = Vec::new();
        match &chunk {
            Some(chunk) => lines.push(chunk, |line| complete.push(line)),
            None => lines.finish(|line| complete.push(line)),
        }
        for (number, line) in complete {
            bytes += line.size();
            batch.push((number, line));
            if batch.len() == api.limits.batch || bytes > BATCH_BYTES_MAX {
                bytes = 0;
                batches.add::<I>(mem::take(&mut batch)).await?;
            }
        }
        if chunk.is_none() {
            break;
        }
    }
    batches.add::<I>(batch).await?;
    batches.response(I::PLURAL).await
}

impl Batches {
    fn new(api: Api, caller: Caller) -> Self {
        let answers = Answers::new(api.limits.answers, api.answer_space.clone());
        let (is_in, last_is_in) = oneshot::channel();
        let _ = is_in.send(());
        let (tally, still_sent_to) = (Tally::default(), StillSentTo::new());
        Self {
            api,
            caller,
            under_way: VecDeque::new(),
            last_is_in,
            tally,
            still_sent_to,
            answers,
            stored_up_to: 0,
        }
    }

    /// Starts a batch as soon as there is room for it. Its items stay in the store even if the
    /// request ends before its answer. Fails if the caller's token does not work any more, because
    /// a request may take days.
    async fn add<I: Item>(&mut self, batch: Vec<Numbered>) -> Result<(), Problem> {
        if batch.is_empty() {
            return Ok(());
        }
        while self.under_way.len() >= UNDER_WAY_MAX {
            self.finish_first().await?;
        }
        self.caller
            .check_still_valid(self.api.store.clock().now())?;
        let permit = self.api.batch_permits.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let (is_in, next_may_follow) = oneshot::channel();
        let may_follow = mem::replace(&mut self.last_is_in, next_may_follow);
        let (api, caller) = (self.api.clone(), self.caller.clone());
        let task = process_batch::<I>(api, caller, batch, may_follow, is_in, permit);
        self.under_way.push_back(tokio::spawn(task));
        Ok(())
    }

    /// Waits for the first batch in progress, and keeps its answers.
    async fn finish_first(&mut self) -> Result<(), Problem> {
        let Some(first) = self.under_way.pop_front() else {
            return Ok(());
        };
        // The task is never cancelled, so an error here means that it panicked.
        let answers = first
            .await
            .unwrap_or_else(|err| panic::resume_unwind(err.into_panic()))?;
        self.tally.add(answers.tally);
        self.still_sent_to.extend(answers.still_sent_to);
        self.stored_up_to = answers.last_line;
        // One write per batch, because beyond the bound each write is a system call on a file.
        match self.answers.add(&answers.lines) {
            Ok(()) => Ok(()),
            Err(why) => Err(self.end_without_answers(&why).await),
        }
    }

    /// Ends a request because its answers cannot be kept. Batches in progress are still processed.
    /// The problem names the last line that is in the store.
    async fn end_without_answers(&mut self, why: &NotKept) -> Problem {
        while let Some(first) = self.under_way.pop_front() {
            match first.await {
                Ok(Ok(answers)) => self.stored_up_to = answers.last_line,
                Ok(Err(_)) | Err(_) => break,
            }
        }
        if let Some(left_out) = admit_outage("answers that could not be kept") {
            tracing::error!(
                %why,
                left_out,
                "answers to NDJSON could not be kept, and the request ended early"
            );
        }
        let line = self.stored_up_to;
        let detail =
            format!("{why}; all lines up to {line} are processed, continue after that one");
        Problem::insufficient_storage(detail, line)
    }

    async fn response(mut self, plural: &str) -> Result<Response, Problem> {
        while !self.under_way.is_empty() {
            self.finish_first().await?;
        }
        if self.tally.read == 0 {
            return Err(Problem::bad_request(format!(
                "the body contains no {plural}"
            )));
        }
        self.api
            .accept
            .wait_for_workers(mem::take(&mut self.still_sent_to))
            .await?;
        let status = self.tally.status();
        let answers = mem::replace(
            &mut self.answers,
            Answers::new(0, self.api.answer_space.clone()),
        );
        let body = match answers.into_body() {
            Ok(body) => body,
            Err(why) => return Err(self.end_without_answers(&why).await),
        };
        Ok((status, [(header::CONTENT_TYPE, NDJSON)], body).into_response())
    }
}

/// Reads the lines of a batch, and processes them once the batch before it is in the store. If that
/// batch failed, this one is not processed, because the request fails as a whole.
async fn process_batch<I: Item>(
    api: Api,
    caller: Caller,
    batch: Vec<Numbered>,
    may_follow: oneshot::Receiver<()>,
    is_in: oneshot::Sender<()>,
    _permit: OwnedSemaphorePermit,
) -> Result<BatchAnswers, StoreError> {
    let read = |(number, line)| {
        read_line::<I>(&api, &line).map_err(|refusal| Refusal {
            line: Some(number),
            ..refusal
        })
    };
    let last_line = batch.last().map_or(0, |(number, _)| *number);
    let items = batch.into_iter().map(read).collect();
    if may_follow.await.is_err() {
        return Err(StoreError::Unavailable(
            "the lines before these could not be processed".to_owned(),
        ));
    }
    let mut lines = Vec::new();
    let (tally, still_sent_to) =
        answer_batch::<I>(&api, &caller, items, |lines| lines.push(b'\n'), &mut lines).await?;
    let _ = is_in.send(());
    Ok(BatchAnswers {
        last_line,
        tally,
        still_sent_to,
        lines,
    })
}

fn read_line<I: Item>(api: &Api, line: &Line) -> Result<I, Refusal> {
    match line {
        Line::Whole(text) => I::read_text(api, text),
        Line::TooLong => Err(Refusal::whole(format!(
            "the line is longer than {} bytes",
            api.limits.line
        ))),
    }
}
