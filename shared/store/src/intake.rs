//! The intake stream: bounces that a mail system adds to Redis itself. Schedulers read it as one
//! consumer group, so each entry is processed by one of them. If a reader dies, another takes over
//! its entries.

use std::collections::HashMap;
use std::time::Duration;

use deadpool_redis::redis::{Value, from_redis_value, pipe};
use domain::event::Event;

use crate::connection::fault::sort_answer;
use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::{self, Text};
use crate::scripts::ms;

/// The consumer group of the schedulers.
const GROUP: &str = "schedulers";

/// How many entries that were put aside are kept, about.
const ASIDE_MAX: usize = 10_000;

/// How long a reader that has nothing to do is remembered.
const READER_KEPT: Duration = Duration::from_secs(3_600);

/// One entry of the intake stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntakeEntry {
    /// Its id, as Redis gave it.
    pub id: String,
    /// Its fields with their values, byte for byte, because a mail system may write any bytes.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An entry that a reader took and did not finish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfinishedEntry {
    /// Its id, as Redis gave it.
    pub id: String,
    /// How many times it was handed out since it was last excused.
    pub times: usize,
}

impl Store {
    /// Creates the stream and its group if they do not exist yet.
    pub async fn open_intake(&self) -> Result<(), StoreError> {
        let mut commands = pipe();
        commands
            .cmd("XGROUP")
            .arg("CREATE")
            .arg(self.keys.intake())
            .arg(GROUP)
            .arg("0")
            .arg("MKSTREAM");
        commands.ignore_errors();
        let (answer,): (Value,) = self.connections.pipeline(&commands).await?;
        match answer {
            Value::ServerError(err) if err.code() != "BUSYGROUP" => Err(sort_answer(&err)),
            _ => Ok(()),
        }
    }

    /// Returns entries that were not read yet, at most `count`. Waits for the first one for at most
    /// `wait`, which must be shorter than the time that an answer may take. The entries belong to
    /// this reader until [`Store::finish_intake`].
    pub async fn read_intake(
        &self,
        reader: &str,
        count: usize,
        wait: Duration,
    ) -> Result<Vec<IntakeEntry>, StoreError> {
        let mut commands = pipe();
        commands
            .cmd("XREADGROUP")
            .arg("GROUP")
            .arg(GROUP)
            .arg(reader)
            .arg("COUNT")
            .arg(count);
        commands
            .arg("BLOCK")
            .arg(ms(wait))
            .arg("STREAMS")
            .arg(self.keys.intake())
            .arg(">");
        let (reply,): (Value,) = self.connections.pipeline(&commands).await?;
        // The stream's name and its entries; nothing if the wait is over.
        let entries = match reply {
            Value::Map(streams) => streams.into_iter().next().map(|(_, entries)| entries),
            streams => raw::values(streams)
                .into_iter()
                .next()
                .and_then(|stream| raw::values(stream).pop()),
        };
        Ok(read_entries(entries.unwrap_or(Value::Nil)))
    }

    /// Returns what readers have had for longer than `idle`, at most `count` entries, oldest first.
    /// The entries still belong to their readers.
    pub async fn unfinished_intake(
        &self,
        count: usize,
        idle: Duration,
    ) -> Result<Vec<UnfinishedEntry>, StoreError> {
        let mut ask = pipe();
        ask.cmd("XPENDING")
            .arg(self.keys.intake())
            .arg(GROUP)
            .arg("IDLE")
            .arg(ms(idle))
            .arg("-")
            .arg("+")
            .arg(count);
        let (pending,): (Value,) = self.connections.pipeline(&ask).await?;
        // Each item has the id, the reader's name, how long the reader has had it, and how many
        // times it was handed out.
        let read = |entry| match raw::values(entry).as_slice() {
            [id, _, _, times] => Some(UnfinishedEntry {
                id: Text::from(id).0,
                times: from_redis_value(times.clone()).unwrap_or_default(),
            }),
            _ => None,
        };
        Ok(raw::values(pending).into_iter().filter_map(read).collect())
    }

    /// Takes over those of these entries that a reader has had for longer than `idle`. Each counts
    /// as handed out once more. Entries that another reader took over first are not returned.
    pub async fn take_over_intake(
        &self,
        reader: &str,
        ids: &[&str],
        idle: Duration,
    ) -> Result<Vec<IntakeEntry>, StoreError> {
        let mut claim = pipe();
        claim
            .cmd("XCLAIM")
            .arg(self.keys.intake())
            .arg(GROUP)
            .arg(reader)
            .arg(ms(idle))
            .arg(ids);
        let (claimed,): (Value,) = self.connections.pipeline(&claim).await?;
        Ok(read_entries(claimed))
    }

    /// Excuses entries that could not be processed for a reason outside them. They still belong to
    /// this reader, and count as handed out `times` times. Entries that were processed do not
    /// change.
    pub async fn excuse_intake(
        &self,
        reader: &str,
        ids: &[String],
        times: usize,
    ) -> Result<(), StoreError> {
        let mut claim = pipe();
        claim
            .cmd("XCLAIM")
            .arg(self.keys.intake())
            .arg(GROUP)
            .arg(reader)
            .arg(0)
            .arg(ids);
        claim.arg("RETRYCOUNT").arg(times).arg("JUSTID").ignore();
        self.connections.pipeline::<()>(&claim).await
    }

    /// Removes entries that have been processed from the stream.
    pub async fn finish_intake(&self, ids: &[String]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let key = self.keys.intake();
        let mut commands = pipe();
        // XDEL comes first. If only XDEL is done, the reader that takes the entry over finds it
        // deleted. If only XACK were done, the entry would stay in the stream for ever.
        commands.cmd("XDEL").arg(&key).arg(ids).ignore();
        commands.cmd("XACK").arg(&key).arg(GROUP).arg(ids).ignore();
        self.connections.pipeline::<()>(&commands).await
    }

    /// Copies an entry that is no bounce to the stream of entries put aside, with the reason, and
    /// writes an event. The entry itself stays until [`Store::finish_intake`]. An entry may be put
    /// aside twice, but is never lost.
    pub async fn put_aside(
        &self,
        entry: &IntakeEntry,
        reason: &str,
        event: &Event,
    ) -> Result<(), StoreError> {
        let mut commands = pipe();
        commands
            .cmd("XADD")
            .arg(self.keys.intake_aside())
            .arg("MAXLEN")
            .arg("~")
            .arg(ASIDE_MAX)
            .arg("*");
        commands
            .arg("entry")
            .arg(&entry.id)
            .arg("reason")
            .arg(reason);
        for (field, value) in &entry.fields {
            commands.arg(field).arg(value);
        }
        let (_,): (String,) = self.connections.pipeline(&commands).await?;
        self.note(event).await
    }

    /// Forgets readers that are gone and have no entries left. Returns how many.
    pub async fn forget_readers(&self) -> Result<usize, StoreError> {
        let key = self.keys.intake();
        let mut ask = pipe();
        ask.cmd("XINFO").arg("CONSUMERS").arg(&key).arg(GROUP);
        let (readers,): (Vec<Value>,) = self.connections.pipeline(&ask).await?;
        let gone: Vec<String> = readers.into_iter().filter_map(idle_reader).collect();
        if gone.is_empty() {
            return Ok(0);
        }
        let mut commands = pipe();
        for reader in &gone {
            commands
                .cmd("XGROUP")
                .arg("DELCONSUMER")
                .arg(&key)
                .arg(GROUP)
                .arg(reader)
                .ignore();
        }
        self.connections.pipeline::<()>(&commands).await?;
        Ok(gone.len())
    }
}

/// Returns the name of a reader that has no entries and has not asked for any for a long time.
fn idle_reader(reader: Value) -> Option<String> {
    let about: HashMap<String, Value> = from_redis_value(reader).ok()?;
    let number = |key: &str| from_redis_value::<u64>(about.get(key)?.clone()).ok();
    let is_gone = number("pending")? == 0 && number("idle")? > ms(READER_KEPT);
    is_gone
        .then(|| from_redis_value(about.get("name")?.clone()).ok())
        .flatten()
}

/// Reads entries one by one. An entry that was deleted meanwhile has no fields.
fn read_entries(entries: Value) -> Vec<IntakeEntry> {
    let bytes = |value| match value {
        Value::BulkString(bytes) => bytes,
        other => Text::from(&other).0.into_bytes(),
    };
    let read = |(id, fields)| {
        let fields = raw::pairs(fields)
            .map(|(field, value)| (bytes(field), bytes(value)))
            .collect();
        IntakeEntry { id, fields }
    };
    raw::entries(entries).into_iter().map(read).collect()
}
