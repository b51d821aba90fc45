//! The stream adapter: accepts the bounces that mail systems add to the intake stream. An entry
//! leaves the stream only when the store has its bounce, or when it was put aside because it is no
//! bounce.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::bounce::Bounce;
use domain::event::Event;
use serde_json::{Map, Value};
use store::error::StoreError;
use store::handle::Store;
use store::intake::{IntakeEntry, UnfinishedEntry};
use system::limiter::admit_outage;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::accept::{Accept, Answered};
use super::json::unique::{Parsed, repeated};
use super::json::{Reader, Refusal};

/// How long to wait for an entry. This is less than the time-out for an answer of Redis, and short
/// enough for a prompt stop.
const WAIT: Duration = Duration::from_secs(1);

/// How long a reader may hold an entry before another reader takes it over.
const IDLE: Duration = Duration::from_secs(30);

/// How often an entry is handed out before it counts as the cause of its readers' crashes. Tries
/// that failed because the store could not be reached are not counted.
const HANDED_OUT_MAX: usize = 5;

/// How long to wait before the next request to a store that did not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// Reads the intake stream.
#[derive(Debug)]
pub struct StreamReader {
    store: Store,
    accept: Accept,
    reader: Reader,
    name: String,
    batch: usize,
    idle: Duration,
}

impl StreamReader {
    /// A reader with a unique name, which reads at most `batch` entries at a time.
    pub fn new(store: Store, accept: Accept, reader: Reader, batch: usize) -> Self {
        Self {
            store,
            accept: accept.with_source("stream"),
            reader,
            name: Uuid::now_v7().to_string(),
            batch,
            idle: IDLE,
        }
    }

    /// The same reader, but it takes over entries that another reader has held for `idle`.
    #[must_use]
    pub fn with_idle_limit(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    /// Reads until `stop` is cancelled. Finishes the entries that were read; entries that other
    /// readers left wait for the next reader. New entries and left entries are processed
    /// concurrently, so that a failure with one kind does not delay the other.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.read_new(&stop), self.take_over_left(&stop));
    }

    async fn read_new(&self, stop: &CancellationToken) {
        let mut is_open = false;
        while !stop.is_cancelled() {
            let read = self.read_some(is_open).await;
            is_open = read.is_ok();
            pause_after("entries of the stream that wait", read, stop).await;
        }
    }

    async fn read_some(&self, is_open: bool) -> Result<(), StoreError> {
        if !is_open {
            self.store.open_intake().await?;
        }
        let entries = self.store.read_intake(&self.name, self.batch, WAIT).await?;
        self.process(entries, 0).await
    }

    async fn take_over_left(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let taken_over = self.take_over(stop).await;
            if taken_over.is_ok() {
                stop.run_until_cancelled(sleep(self.idle / 3)).await;
            }
            pause_after("entries of readers that are gone", taken_over, stop).await;
        }
    }

    /// Takes over the entries that a crashed reader left, or this reader while the store could not
    /// be reached. An entry that may have crashed its reader is handed out alone, the least
    /// suspicious first, so that a crash affects no other entry. Ends early if `stop` is cancelled:
    /// there may be many entries, and those not taken over stay pending.
    async fn take_over(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        self.store.open_intake().await?;
        self.store.forget_readers().await?;
        loop {
            let mut left = self.store.unfinished_intake(self.batch, self.idle).await?;
            if left.is_empty() {
                return Ok(());
            }
            left.sort_by_key(|entry| entry.times);
            let (excused, suspicious) =
                left.split_at(left.partition_point(|entry| entry.times == 0));
            for together in [excused]
                .into_iter()
                .filter(|excused| !excused.is_empty())
                .chain(suspicious.chunks(1))
            {
                if stop.is_cancelled() {
                    return Ok(());
                }
                self.take_over_together(together).await?;
            }
        }
    }

    /// Takes over and processes entries that were all handed out equally often.
    async fn take_over_together(&self, left: &[UnfinishedEntry]) -> Result<(), StoreError> {
        let ids: Vec<&str> = left.iter().map(|entry| entry.id.as_str()).collect();
        let entries = self
            .store
            .take_over_intake(&self.name, &ids, self.idle)
            .await?;
        self.process(entries, left[0].times).await
    }

    /// Processes entries that had been handed out `times` times before. If the store cannot be
    /// reached, this time is not counted, because the entries are not the cause.
    async fn process(&self, entries: Vec<IntakeEntry>, times: usize) -> Result<(), StoreError> {
        let ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        let processed = if times < HANDED_OUT_MAX {
            self.accept_bounces(entries).await
        } else {
            self.put_aside_all(
                &entries,
                &format!("it was handed out {times} times, and no reader finished it"),
            )
            .await
        };
        if processed.as_ref().is_err_and(StoreError::may_pass) && !ids.is_empty() {
            // An error is ignored. If the stream cannot be reached either, no other reader gets the
            // entries meanwhile, so at most this one time is counted too many.
            let _ = self.store.excuse_intake(&self.name, &ids, times).await;
        }
        processed
    }

    async fn accept_bounces(&self, entries: Vec<IntakeEntry>) -> Result<(), StoreError> {
        let mut readable = Vec::new();
        let mut bounces = Vec::new();
        for entry in entries {
            match self.bounce(&entry) {
                Ok(bounce) => {
                    readable.push(entry);
                    bounces.push(bounce);
                }
                Err(refusal) => self.put_aside(&entry, &refusal.without_value()).await?,
            }
        }
        match self.accept.accept(bounces).await {
            // An entry that the store refuses must not affect the others.
            Err(err) if !err.may_pass() && readable.len() > 1 => {
                for entry in readable {
                    Box::pin(self.accept_bounces(vec![entry])).await?;
                }
                Ok(())
            }
            Err(err) if !err.may_pass() && readable.len() == 1 => {
                self.put_aside(&readable[0], &err.to_string()).await
            }
            Err(err) => Err(err),
            Ok(answers) => {
                log_warnings(&answers);
                let ids: Vec<String> = readable.into_iter().map(|entry| entry.id).collect();
                self.store.finish_intake(&ids).await
            }
        }
    }

    /// Reads the bounce of an entry. It is the entry's field `bounce`, as JSON. Without that field,
    /// the fields of the entry are the fields of the bounce; `content` and `metadata` are then
    /// JSON.
    fn bounce(&self, entry: &IntakeEntry) -> Result<Bounce, Refusal> {
        let now = self.store.clock().now();
        let mut whole = entry.fields.iter().filter(|(field, _)| field == b"bounce");
        if let Some((_, json)) = whole.next() {
            return if whole.next().is_none() {
                self.reader.read_text(json, now)
            } else {
                Err(repeated("bounce"))
            };
        }
        let value = |field: &str, text: &[u8]| {
            match (field, std::str::from_utf8(text)) {
                ("content" | "metadata", _) => Parsed::read(text),
                (_, Ok(text)) => Ok(text.into()),
                // A reply may be in another charset. Its codes can be read all the same.
                ("reply", Err(_)) => Ok(String::from_utf8_lossy(text).into()),
                // With its wrong bytes replaced, the text could be equal to another address or id.
                (_, Err(_)) => Err(Refusal::whole("is not UTF-8")),
            }
        };
        let mut fields = Map::with_capacity(entry.fields.len());
        for (field, text) in &entry.fields {
            let field = String::from_utf8_lossy(field).into_owned();
            let value = value(&field, text).map_err(|refusal| refusal.within(&field))?;
            if fields.insert(field.clone(), value).is_some() {
                return Err(repeated(&field));
            }
        }
        self.reader.read(Value::Object(fields), now)
    }

    async fn put_aside_all(&self, entries: &[IntakeEntry], reason: &str) -> Result<(), StoreError> {
        for entry in entries {
            self.put_aside(entry, reason).await?;
        }
        Ok(())
    }

    async fn put_aside(&self, entry: &IntakeEntry, reason: &str) -> Result<(), StoreError> {
        let event = Event::intake_refused(format!("entry {}: {reason}", entry.id));
        match self.store.put_aside(entry, reason, &event).await {
            Ok(()) => {
                if let Some(left_out) = admit_outage("entries put aside") {
                    tracing::warn!(
                        entry = entry.id,
                        reason,
                        left_out,
                        "an entry of the intake stream was put aside"
                    );
                }
            }
            // The entry stays in the stream, and is tried again after the idle time. The other
            // entries of its batch are processed.
            Err(err) if !err.may_pass() => {
                tracing::error!(
                    entry = entry.id,
                    reason,
                    %err,
                    "an entry of the intake stream cannot be put aside"
                );
                return Ok(());
            }
            Err(err) => return Err(err),
        }
        self.store
            .finish_intake(std::slice::from_ref(&entry.id))
            .await
    }
}

/// After a failure, logs it and waits before the next try.
async fn pause_after(kind: &'static str, result: Result<(), StoreError>, stop: &CancellationToken) {
    let Err(err) = result else { return };
    if let Some(left_out) = admit_outage(kind) {
        tracing::warn!(
            %err,
            kind,
            left_out,
            "entries of the intake stream wait: the store failed"
        );
    }
    stop.run_until_cancelled(sleep(PAUSE)).await;
}

/// Logs which fields of entries could not be used. Nobody reads the answers to entries.
fn log_warnings(answers: &[Answered]) {
    let warned = answers
        .iter()
        .filter(|answered| !answered.warnings.is_empty());
    let count = warned.clone().count();
    if count > 0
        && let Some(left_out) = admit_outage("entries with unusable fields")
    {
        let names = warned.flat_map(|answered| &answered.warnings);
        let fields: BTreeSet<&str> = names.map(|warning| warning.field.as_str()).collect();
        tracing::warn!(
            count,
            ?fields,
            left_out,
            "bounces of the intake stream have fields that could not be used"
        );
    }
}
