//! The stream adapter: takes in what mail systems add to the intake stream. An entry leaves the
//! stream only when the store has its bounce, or when it was put aside because it holds none.

use std::time::Duration;

use domain::bounce::Bounce;
use domain::event::Event;
use serde_json::{Map, Value};
use store::error::StoreError;
use store::handle::Store;
use store::intake::{IntakeEntry, LeftEntry};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::accept::Accept;
use super::json::unique::{Parsed, repeated};
use super::json::{Reader, Refusal};

/// How long to wait for an entry. Shorter than an answer of Redis may take, and than anybody waits
/// for us to stop.
const WAIT: Duration = Duration::from_secs(1);

/// How long a reader may have an entry before another takes it over.
const IDLE: Duration = Duration::from_secs(30);

/// How often an entry is handed out before it counts as what kills its readers. Tries that failed
/// because the store was away are not among them.
const HANDED_OUT_MAX: usize = 5;

/// How long to wait before a store that did not answer is asked again.
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
    /// One with a name of its own, which reads at most `batch` entries at a time.
    pub fn new(store: Store, accept: Accept, reader: Reader, batch: usize) -> Self {
        Self {
            store,
            accept,
            reader,
            name: Uuid::now_v7().to_string(),
            batch,
            idle: IDLE,
        }
    }

    /// The same reader, which takes over what others have had for so long.
    #[must_use]
    pub fn taking_over_after(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    /// Reads until `stop` is cancelled. What was read is dealt with first; what others left waits
    /// for the next reader. New entries and those of other readers are looked after side by side,
    /// so that trouble with the ones does not hold up the others.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.read_new(&stop), self.look_back(&stop));
    }

    async fn read_new(&self, stop: &CancellationToken) {
        let (mut is_open, mut told) = (false, false);
        while !stop.is_cancelled() {
            let read = self.read_some(is_open).await;
            is_open = read.is_ok();
            self.pause_after("read", read, &mut told, stop).await;
        }
    }

    async fn read_some(&self, is_open: bool) -> Result<(), StoreError> {
        if !is_open {
            self.store.open_intake().await?;
        }
        let entries = self.store.read_intake(&self.name, self.batch, WAIT).await?;
        self.deal_with(entries, 0).await
    }

    async fn look_back(&self, stop: &CancellationToken) {
        let mut told = false;
        while !stop.is_cancelled() {
            let looked = self.take_over(stop).await;
            if looked.is_ok() {
                stop.run_until_cancelled(sleep(self.idle / 3)).await;
            }
            self.pause_after(
                "taken over from readers that are gone",
                looked,
                &mut told,
                stop,
            )
            .await;
        }
    }

    /// Says once that something does not work for now, and waits before it is tried again.
    async fn pause_after(
        &self,
        what: &str,
        ended: Result<(), StoreError>,
        told: &mut bool,
        stop: &CancellationToken,
    ) {
        let Err(err) = ended else {
            *told = false;
            return;
        };
        if !std::mem::replace(told, true) {
            tracing::warn!(%err, what, "entries of the intake stream wait");
        }
        stop.run_until_cancelled(sleep(PAUSE)).await;
    }

    /// What a reader left that died, or this one when the store was away. What may have killed a
    /// reader is handed out alone, the least suspicious first, so that nothing else dies with it.
    /// Ends early once `stop` is cancelled: a reader leaves many entries, and what is not taken
    /// over stays pending.
    async fn take_over(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        self.store.open_intake().await?;
        self.store.forget_readers().await?;
        loop {
            let mut left = self.store.left_in_intake(self.batch, self.idle).await?;
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

    /// Entries that were all handed out equally often.
    async fn take_over_together(&self, left: &[LeftEntry]) -> Result<(), StoreError> {
        let ids: Vec<&str> = left.iter().map(|entry| entry.id.as_str()).collect();
        let entries = self
            .store
            .take_over_intake(&self.name, &ids, self.idle)
            .await?;
        self.deal_with(entries, left[0].times).await
    }

    /// Deals with entries that had been handed out `times` times before. Where the store is away
    /// this time does not count: it says nothing of the entries.
    async fn deal_with(&self, entries: Vec<IntakeEntry>, times: usize) -> Result<(), StoreError> {
        let ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        let dealt_with = if times < HANDED_OUT_MAX {
            self.take_in(entries).await
        } else {
            self.put_aside_all(
                &entries,
                &format!("it was handed out {times} times and never dealt with"),
            )
            .await
        };
        if dealt_with.as_ref().is_err_and(StoreError::may_pass) && !ids.is_empty() {
            // Where the stream cannot be reached either, nobody else counts meanwhile: this is one
            // time too many at most.
            let _ = self.store.excuse_intake(&self.name, &ids, times).await;
        }
        dealt_with
    }

    async fn take_in(&self, entries: Vec<IntakeEntry>) -> Result<(), StoreError> {
        let (mut taken, mut bounces) = (Vec::new(), Vec::new());
        for entry in entries {
            match self.bounce(&entry) {
                Ok(bounce) => {
                    taken.push(entry);
                    bounces.push(bounce);
                }
                Err(refusal) => self.put_aside(&entry, &refusal.without_value()).await?,
            }
        }
        match self.accept.accept(bounces).await {
            // One that the store refuses must not take the others with it.
            Err(err) if !err.may_pass() && taken.len() > 1 => {
                for entry in taken {
                    Box::pin(self.take_in(vec![entry])).await?;
                }
                Ok(())
            }
            Err(err) if !err.may_pass() && taken.len() == 1 => {
                self.put_aside(&taken[0], &err.to_string()).await
            }
            Err(err) => Err(err),
            Ok(_) => {
                self.store
                    .finish_intake(&taken.into_iter().map(|entry| entry.id).collect::<Vec<_>>())
                    .await
            }
        }
    }

    /// The bounce of an entry: its field `bounce` as JSON, or else its fields, as far as they are
    /// no text as JSON.
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
                // Servers speak other charsets; the codes can be read all the same.
                ("reply", Err(_)) => Ok(String::from_utf8_lossy(text).into()),
                // Replaced bytes would make one name of two.
                (_, Err(_)) => Err(Refusal::whole("is no UTF-8")),
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
            Ok(()) => tracing::warn!(
                entry = entry.id,
                reason,
                "an entry of the intake stream was put aside"
            ),
            // It stays in the stream, and is tried again when it has been idle; the others of its
            // batch go on.
            Err(err) if !err.may_pass() => {
                tracing::error!(entry = entry.id, reason, %err, "an entry of the intake stream cannot be put aside");
                return Ok(());
            }
            Err(err) => return Err(err),
        }
        self.store
            .finish_intake(std::slice::from_ref(&entry.id))
            .await
    }
}
