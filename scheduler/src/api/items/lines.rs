//! Items that are a line each, NDJSON of any length. Lines are taken in by the batch: while one is
//! in the store the next ones are being read, and beyond a bound the body waits, which is what a
//! client that sends faster gets to feel.

use std::collections::VecDeque;
use std::mem;
use std::panic;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use store::batch::BATCH_BYTES_MAX;
use store::error::StoreError;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinHandle;

use super::answers::{Answers, NotKept};
use super::{Item, NDJSON, Tally, answer, next_chunk};
use crate::api::Api;
use crate::api::problem::Problem;
use crate::intake::accept::SentTo;
use crate::intake::json::Refusal;
use crate::intake::lines::{Line, Lines, Numbered};

/// Batches of one request that are under way at once: one in the store, one to follow it at once,
/// and one being read.
const UNDER_WAY_MAX: usize = 3;

/// The batches of one request. They are read beside each other, and taken in one after the other.
struct Batches {
    api: Api,
    under_way: VecDeque<JoinHandle<Result<Answered, StoreError>>>,
    /// Tells that the last batch so far is in the store, so that the next one may follow it.
    last_is_in: oneshot::Receiver<()>,
    tally: Tally,
    sent_to: SentTo,
    answers: Answers,
    /// The number of the last line that is in the store, and all before it are.
    taken_in: u64,
}

/// The answers to one batch, a line each.
struct Answered {
    last_line: u64,
    tally: Tally,
    sent_to: SentTo,
    lines: Vec<u8>,
}

/// Reads the whole stream before it answers, because many clients do not read an answer while they
/// still write: the two would wait for each other for ever. The answers wait in memory, and beyond
/// a bound in a temporary file.
pub(super) async fn take_in<I: Item>(api: &Api, body: Body) -> Result<Response, Problem> {
    let mut chunks = body.into_data_stream();
    let mut lines = Lines::new(api.limits.line);
    let mut batches = Batches::new(api.clone());
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
    fn new(api: Api) -> Self {
        let answers = Answers::new(api.limits.answers, api.answer_room.clone());
        let (is_in, last_is_in) = oneshot::channel();
        let _ = is_in.send(());
        let (tally, sent_to) = (Tally::default(), SentTo::new());
        Self {
            api,
            under_way: VecDeque::new(),
            last_is_in,
            tally,
            sent_to,
            answers,
            taken_in: 0,
        }
    }

    /// Starts a batch, once there is room for it. What it brings to the store stays there even
    /// where the request ends before its answer.
    async fn add<I: Item>(&mut self, batch: Vec<Numbered>) -> Result<(), Problem> {
        if batch.is_empty() {
            return Ok(());
        }
        while self.under_way.len() >= UNDER_WAY_MAX {
            self.finish_first().await?;
        }
        let room = self.api.room.clone().acquire_owned().await;
        let room = room.expect("nobody closes it");
        let (is_in, next_may_follow) = oneshot::channel();
        let may_follow = mem::replace(&mut self.last_is_in, next_may_follow);
        let task = one::<I>(self.api.clone(), batch, may_follow, is_in, room);
        self.under_way.push_back(tokio::spawn(task));
        Ok(())
    }

    /// Waits for the first batch that is under way, and keeps its answers.
    async fn finish_first(&mut self) -> Result<(), Problem> {
        let Some(first) = self.under_way.pop_front() else {
            return Ok(());
        };
        // Nobody cancels it, so it has panicked where it did not end.
        let answers = first
            .await
            .unwrap_or_else(|err| panic::resume_unwind(err.into_panic()))?;
        self.tally.add(answers.tally);
        self.sent_to.extend(answers.sent_to);
        self.taken_in = answers.last_line;
        // One write per batch: beyond the bound the answers go to a file, where each write is a
        // system call.
        match self.answers.add(&answers.lines) {
            Ok(()) => Ok(()),
            Err(why) => Err(self.not_kept(&why).await),
        }
    }

    /// The answers cannot be given. What is under way gets into the store all the same, and the
    /// problem says how far that went.
    async fn not_kept(&mut self, why: &NotKept) -> Problem {
        while let Some(first) = self.under_way.pop_front() {
            match first.await {
                Ok(Ok(answered)) => self.taken_in = answered.last_line,
                Ok(Err(_)) | Err(_) => break,
            }
        }
        tracing::error!(%why, "answers to NDJSON could not be kept, and the request ended early");
        let line = self.taken_in;
        let detail = format!("{why}; all lines up to {line} are taken in, go on behind it");
        Problem::insufficient_storage(detail, line)
    }

    async fn response(mut self, plural: &str) -> Result<Response, Problem> {
        while !self.under_way.is_empty() {
            self.finish_first().await?;
        }
        if self.tally.read == 0 {
            return Err(Problem::bad_request(format!("the body holds no {plural}")));
        }
        self.api
            .accept
            .wait_for_workers(mem::take(&mut self.sent_to))
            .await?;
        let status = self.tally.status();
        let answers = mem::replace(
            &mut self.answers,
            Answers::new(0, self.api.answer_room.clone()),
        );
        let body = match answers.into_body() {
            Ok(body) => body,
            Err(why) => return Err(self.not_kept(&why).await),
        };
        Ok((status, [(header::CONTENT_TYPE, NDJSON)], body).into_response())
    }
}

/// Reads the lines of a batch, and takes them in when the batch before it is in. Where that one
/// failed this one is not taken in, for its request fails as a whole.
async fn one<I: Item>(
    api: Api,
    batch: Vec<Numbered>,
    may_follow: oneshot::Receiver<()>,
    is_in: oneshot::Sender<()>,
    _room: OwnedSemaphorePermit,
) -> Result<Answered, StoreError> {
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
            "what came before could not be taken in".to_owned(),
        ));
    }
    let mut lines = Vec::new();
    let (tally, sent_to) = answer::<I>(&api, items, |lines| lines.push(b'\n'), &mut lines).await?;
    let _ = is_in.send(());
    Ok(Answered {
        last_line,
        tally,
        sent_to,
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
