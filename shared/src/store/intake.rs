//! The intake stream: bounces that a mail system adds to Redis itself. Schedulers read it as one consumer group, so each
//! entry is taken in by one of them, and what a reader had when it died is taken over by another.

use std::collections::HashMap;
use std::time::Duration;

use deadpool_redis::redis::streams::{StreamClaimReply, StreamId, StreamPendingCountReply, StreamReadReply};
use deadpool_redis::redis::{Value, from_redis_value, pipe};

use super::scripts::ms;
use super::{Store, StoreError};
use crate::event::Event;

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
    /// Its fields with their values. Bytes that are no UTF-8 have been replaced.
    pub fields: Vec<(String, String)>,
}

/// An entry that a reader had and did not finish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftEntry {
    /// Its id, as Redis gave it.
    pub id: String,
    /// How often it was handed out and not excused since.
    pub times: usize,
}

impl Store {
    /// Makes the stream and its group where they are not there yet.
    pub async fn open_intake(&self) -> Result<(), StoreError> {
        let mut commands = pipe();
        commands.cmd("XGROUP").arg("CREATE").arg(self.keys.intake()).arg(GROUP).arg("0").arg("MKSTREAM");
        commands.ignore_errors();
        let (answer,): (Value,) = self.connections.pipeline(&commands).await?;
        match answer {
            Value::ServerError(err) if err.code() != "BUSYGROUP" => {
                Err(StoreError::Refused(format!("the intake stream could not be opened: {err}")))
            }
            _ => Ok(()),
        }
    }

    /// Entries that nobody has read yet, at most `count`; waits for the first for at most `wait`, which has to be shorter
    /// than the time that an answer may take. They are this reader's until [`Store::finish_intake`].
    pub async fn read_intake(
        &self,
        reader: &str,
        count: usize,
        wait: Duration,
    ) -> Result<Vec<IntakeEntry>, StoreError> {
        let mut commands = pipe();
        commands.cmd("XREADGROUP").arg("GROUP").arg(GROUP).arg(reader).arg("COUNT").arg(count);
        commands.arg("BLOCK").arg(ms(wait)).arg("STREAMS").arg(self.keys.intake()).arg(">");
        let (reply,): (Option<StreamReadReply>,) = self.connections.pipeline(&commands).await?;
        let streams = reply.into_iter().flat_map(|reply| reply.keys);
        Ok(streams.flat_map(|stream| stream.ids).map(IntakeEntry::from).collect())
    }

    /// What readers have had for longer than `idle`, at most `count` entries, oldest first. It stays theirs.
    pub async fn left_in_intake(&self, count: usize, idle: Duration) -> Result<Vec<LeftEntry>, StoreError> {
        let mut ask = pipe();
        ask.cmd("XPENDING").arg(self.keys.intake()).arg(GROUP).arg("IDLE").arg(ms(idle)).arg("-").arg("+").arg(count);
        let (pending,): (StreamPendingCountReply,) = self.connections.pipeline(&ask).await?;
        Ok(pending.ids.into_iter().map(|entry| LeftEntry { id: entry.id, times: entry.times_delivered }).collect())
    }

    /// Takes over those of these entries that a reader has had for longer than `idle`, and counts that each was handed out
    /// once more. What another reader was quicker to take over is not among them.
    pub async fn take_over_intake(
        &self,
        reader: &str,
        ids: &[&str],
        idle: Duration,
    ) -> Result<Vec<IntakeEntry>, StoreError> {
        let mut claim = pipe();
        claim.cmd("XCLAIM").arg(self.keys.intake()).arg(GROUP).arg(reader).arg(ms(idle)).arg(ids);
        let (claimed,): (StreamClaimReply,) = self.connections.pipeline(&claim).await?;
        Ok(claimed.ids.into_iter().map(IntakeEntry::from).collect())
    }

    /// These entries could not be dealt with, by no fault of theirs: they stay this reader's for now, and count as handed out
    /// `times` times. Of those that were dealt with nothing changes.
    pub async fn excuse_intake(&self, reader: &str, ids: &[String], times: usize) -> Result<(), StoreError> {
        let mut claim = pipe();
        claim.cmd("XCLAIM").arg(self.keys.intake()).arg(GROUP).arg(reader).arg(0).arg(ids);
        claim.arg("RETRYCOUNT").arg(times).arg("JUSTID").ignore();
        self.connections.pipeline::<()>(&claim).await
    }

    /// These entries have been dealt with: they leave the stream.
    pub async fn finish_intake(&self, ids: &[String]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let key = self.keys.intake();
        let mut commands = pipe();
        commands.cmd("XACK").arg(&key).arg(GROUP).arg(ids).ignore();
        commands.cmd("XDEL").arg(&key).arg(ids).ignore();
        self.connections.pipeline::<()>(&commands).await
    }

    /// Keeps an entry that holds no bounce in the stream beside, with the reason, and tells of it by an event. The entry
    /// itself stays until [`Store::finish_intake`]; an entry may be put aside twice, and is never lost.
    pub async fn put_aside(&self, entry: &IntakeEntry, reason: &str, event: &Event) -> Result<(), StoreError> {
        let mut commands = pipe();
        commands.cmd("XADD").arg(self.keys.intake_aside()).arg("MAXLEN").arg("~").arg(ASIDE_MAX).arg("*");
        commands.arg("entry").arg(&entry.id).arg("reason").arg(reason);
        for (field, value) in &entry.fields {
            commands.arg(field).arg(value);
        }
        let (_,): (String,) = self.connections.pipeline(&commands).await?;
        self.note(event).await
    }

    /// Forgets readers that are gone and have nothing left. Tells how many.
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
            commands.cmd("XGROUP").arg("DELCONSUMER").arg(&key).arg(GROUP).arg(reader).ignore();
        }
        self.connections.pipeline::<()>(&commands).await?;
        Ok(gone.len())
    }
}

/// The name of a reader that has nothing and has asked for nothing for a long time.
fn idle_reader(reader: Value) -> Option<String> {
    let about: HashMap<String, Value> = from_redis_value(reader).ok()?;
    let number = |key: &str| from_redis_value::<u64>(about.get(key)?.clone()).ok();
    let is_gone = number("pending")? == 0 && number("idle")? > ms(READER_KEPT);
    is_gone.then(|| from_redis_value(about.get("name")?.clone()).ok()).flatten()
}

impl From<StreamId> for IntakeEntry {
    fn from(entry: StreamId) -> Self {
        let text = |value: Value| match value {
            Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            other => from_redis_value(other).unwrap_or_default(),
        };
        Self { id: entry.id, fields: entry.map.into_iter().map(|(field, value)| (field, text(value))).collect() }
    }
}
