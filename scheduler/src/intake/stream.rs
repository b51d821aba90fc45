//! The stream adapter: takes in what mail systems add to the intake stream. An entry leaves the stream only when the store
//! has its bounce, or when it was put aside because it holds none.

use std::time::Duration;

use serde_json::{Map, Value};
use shared::bounce::Bounce;
use shared::event::Event;
use shared::store::intake::IntakeEntry;
use shared::store::{Store, StoreError};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::accept::Accept;
use super::json::{Reader, Refusal};

/// How long to wait for an entry. Shorter than an answer of Redis may take, and than anybody waits for us to stop.
const WAIT: Duration = Duration::from_secs(1);

/// How long a reader may have an entry before another takes it over.
const IDLE: Duration = Duration::from_secs(30);

/// How often an entry is handed out before it counts as what kills its readers.
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
        Self { store, accept, reader, name: Uuid::now_v7().to_string(), batch, idle: IDLE }
    }

    /// The same reader, which takes over what others have had for so long.
    #[must_use]
    pub fn taking_over_after(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    /// Reads until `stop` is cancelled. What was read is dealt with first.
    pub async fn run(self, stop: CancellationToken) {
        let mut look_back_at = Instant::now();
        let mut told = false;
        while !stop.is_cancelled() {
            let look_back = Instant::now() >= look_back_at;
            match self.pass(look_back).await {
                Ok(()) => {
                    if look_back {
                        look_back_at = Instant::now() + self.idle / 3;
                    }
                    told = false;
                }
                Err(err) => {
                    if !told {
                        tracing::warn!(%err, "the intake stream cannot be read for now");
                        told = true;
                    }
                    stop.run_until_cancelled(sleep(PAUSE)).await;
                }
            }
        }
    }

    async fn pass(&self, look_back: bool) -> Result<(), StoreError> {
        if look_back {
            self.store.open_intake().await?;
            self.store.forget_readers().await?;
            self.take_over().await?;
        }
        let entries = self.store.read_intake(&self.name, self.batch, WAIT).await?;
        self.take_in(entries).await
    }

    /// What a reader left that died, or this one when the store was away.
    async fn take_over(&self) -> Result<(), StoreError> {
        loop {
            let found = self.store.take_over_intake(&self.name, self.batch, self.idle).await?;
            if found.is_empty() {
                return Ok(());
            }
            let (poison, entries): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, times)| *times > HANDED_OUT_MAX);
            for (entry, times) in &poison {
                self.put_aside(entry, &format!("it was handed out {times} times and never dealt with")).await?;
            }
            self.take_in(entries.into_iter().map(|(entry, _)| entry).collect()).await?;
        }
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
            Err(StoreError::Refused(_)) if taken.len() > 1 => {
                for entry in taken {
                    Box::pin(self.take_in(vec![entry])).await?;
                }
                Ok(())
            }
            Err(StoreError::Refused(why)) if taken.len() == 1 => self.put_aside(&taken[0], &why).await,
            Err(err) => Err(err),
            Ok(_) => self.store.finish_intake(&taken.into_iter().map(|entry| entry.id).collect::<Vec<_>>()).await,
        }
    }

    /// The bounce of an entry: its field `bounce` as JSON, or else its fields, as far as they are no text as JSON.
    fn bounce(&self, entry: &IntakeEntry) -> Result<Bounce, Refusal> {
        let now = self.store.clock().now();
        if let Some((_, json)) = entry.fields.iter().find(|(field, _)| field == "bounce") {
            return self.reader.read_text(json.as_bytes(), now);
        }
        let value = |(field, text): &(String, String)| {
            let is_text = !matches!(field.as_str(), "content" | "metadata");
            let value = if is_text { Ok(Value::from(text.as_str())) } else { serde_json::from_str(text) };
            let value = value.map_err(|err| Refusal::whole(format!("{field} is not JSON: {err}")))?;
            Ok((field.clone(), value))
        };
        let fields = entry.fields.iter().map(value).collect::<Result<Map<_, _>, Refusal>>()?;
        self.reader.read(Value::Object(fields), now)
    }

    async fn put_aside(&self, entry: &IntakeEntry, reason: &str) -> Result<(), StoreError> {
        tracing::warn!(entry = entry.id, reason, "an entry of the intake stream was put aside");
        let event = Event::intake_refused(format!("entry {}: {reason}", entry.id));
        self.store.put_aside(entry, reason, &event).await?;
        self.store.finish_intake(std::slice::from_ref(&entry.id)).await
    }
}
