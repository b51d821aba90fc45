//! Reading the journal: the events of every shard, in the order in which each shard wrote them.

use std::collections::HashMap;

use deadpool_redis::redis::Value;
use domain::clock::Timestamp;
use domain::event::Event;
use domain::outcome::without_addresses;

use crate::entry_id::EntryId;
use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::{self, Text};
use crate::scripts::NOTE;

/// One entry of a shard's journal: the events of one batch.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// When the events happened.
    pub time: Timestamp,
    /// The events, in order.
    pub events: Vec<Event>,
}

impl Store {
    /// Reads what each shard wrote after the entry given for it. Returns at most `count` entries
    /// per shard, in one round trip.
    pub async fn read_journal(
        &self,
        after: &[EntryId],
        count: usize,
    ) -> Result<Vec<Vec<Entry>>, StoreError> {
        let mut after = after.iter();
        let replies: Vec<(Value,)> = self
            .on_each_shard(|keys, commands| {
                let after = after.next().copied().unwrap_or_default();
                commands.xrange_count(keys.journal(), format!("({after}"), "+", count);
            })
            .await?;
        let read = |(entries,)| {
            raw::entries(entries)
                .into_iter()
                .filter_map(read_entry)
                .collect()
        };
        Ok(replies.into_iter().map(read).collect())
    }

    /// Whether an entry exists, for each shard for which an entry is given, in one round trip.
    pub async fn journal_has(
        &self,
        entries: &[Option<EntryId>],
    ) -> Result<Vec<Option<bool>>, StoreError> {
        let mut asked = entries.iter();
        let replies: Vec<(Value,)> = self
            .on_each_shard(|keys, commands| match asked.next().copied().flatten() {
                Some(id) => {
                    let id = id.to_string();
                    commands.xrange_count(keys.journal(), &id, &id, 1);
                }
                None => {
                    commands.exists(keys.journal());
                }
            })
            .await?;
        let is_there = |(entry, (reply,)): (&Option<EntryId>, _)| {
            entry.map(|_| !raw::values(reply).is_empty())
        };
        Ok(entries.iter().zip(replies).map(is_there).collect())
    }

    /// Writes an event that belongs to no job and no destination into the journal of the first
    /// shard.
    pub async fn note(&self, event: &Event) -> Result<(), StoreError> {
        let mut call = self.call(&NOTE, 0);
        call.arg("event", event.line());
        let _: i64 = self.connections.script(&call).await?;
        Ok(())
    }

    /// Returns the id of the last entry of each shard's journal.
    pub async fn journal_ends(&self) -> Result<Vec<EntryId>, StoreError> {
        let replies: Vec<(Value,)> = self
            .on_each_shard(|keys, commands| {
                commands.xrevrange_count(keys.journal(), "+", "-", 1);
            })
            .await?;
        let end = |(entries,)| {
            raw::entries(entries)
                .first()
                .and_then(|(id, _)| id.parse().ok())
                .unwrap_or_default()
        };
        Ok(replies.into_iter().map(end).collect())
    }
}

/// Reads one entry. If it cannot be read, it is returned without its events, so that readers
/// continue after it.
pub(crate) fn read_entry((id, fields): (String, Vec<Value>)) -> Option<Entry> {
    let id: EntryId = id.parse().ok()?;
    match read_events(id, fields) {
        Ok(entry) => Some(entry),
        Err(why) => {
            tracing::error!(
                entry = %id,
                why,
                "an entry of the journal cannot be read, and its events are left out"
            );
            let time = Timestamp::from_ms(id.ms.try_into().unwrap_or(i64::MAX));
            Some(Entry {
                id,
                time,
                events: Vec::new(),
            })
        }
    }
}

fn read_events(id: EntryId, fields: Vec<Value>) -> Result<Entry, String> {
    let fields: HashMap<Text, Value> = raw::pairs(fields)
        .map(|(field, value)| (Text::from(&field), value))
        .collect();
    let field = |name: &str| fields.get(&Text(name.to_owned()));
    let time = field("t")
        .and_then(|time| Text::from(time).0.parse().ok())
        .ok_or("it has no time")?;
    let Text(json) = field("e").map(Text::from).ok_or("it has no events")?;
    let events: Vec<serde_json::Value> =
        serde_json::from_str(&json).map_err(|why| without_addresses(&why.to_string()))?;
    let events = events
        .into_iter()
        .filter_map(|event| match serde_json::from_value::<Event>(event) {
            Ok(event) => Some(event.with_due(Timestamp::from_ms(time))),
            Err(why) => {
                // A newer version may write kinds that this version does not know. Its readers must
                // not stop there.
                let why = without_addresses(&why.to_string());
                tracing::debug!(entry = %id, why, "an event of an unknown kind is left out");
                None
            }
        })
        .collect();
    Ok(Entry {
        id,
        time: Timestamp::from_ms(time),
        events,
    })
}
