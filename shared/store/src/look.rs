//! Looks whether Redis still has what this process has seen of each shard, and what is missing
//! where it does not.

use std::sync::atomic::Ordering;

use crate::entry_id::EntryId;
use crate::error::StoreError;
use crate::handle::Store;
use crate::scripts::HISTORY;

/// What a look at one shard has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Whether it is another server than the last time, or was started again, or followed another
    /// master meanwhile. Only then, or with proof, writes can have been lost.
    pub is_another: bool,
    /// Whether its serial was behind what this process had seen: proof that writes were lost.
    pub is_behind: bool,
    /// How many of the journal entries that this process remembers are lost: proof as well.
    pub entries: u64,
    /// Names what happened: all processes that notice it have the same.
    pub(crate) incident: String,
}

impl Look {
    /// Whether writes have been lost for certain.
    pub fn is_proof(&self) -> bool {
        self.is_behind || self.entries > 0
    }
}

/// What became of an entry of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// It is there.
    Kept,
    /// It was forgotten, as all that are older than `journal.keep` are.
    Trimmed,
    /// Redis has lost it.
    Lost,
}

/// What is missing where a reader of a shard's journal wants to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// What became of the entry that the reader has seen last.
    pub state: EntryState,
    /// The entry behind which it goes on: the newest that is there and not after the one that it
    /// has seen. 0-0 if there is none, so that it goes on with the first.
    pub after: EntryId,
    /// The oldest entry that is there, if there is any.
    pub first: Option<EntryId>,
}

/// Where the journal of a shard is.
pub(crate) struct Whereabouts {
    pub(crate) server: String,
    pub(crate) serial: u64,
    pub(crate) entries: Vec<EntryState>,
    /// Its first entry, if it has any.
    pub(crate) first: Option<EntryId>,
    /// The newest entry that is not after the first of those that were asked about; 0-0 if there is
    /// none.
    pub(crate) before: EntryId,
}

impl Store {
    /// Looks whether one shard's server has lost writes, or may have. The first look only remembers
    /// which server it is.
    pub async fn look(&self, shard: u16) -> Result<Look, StoreError> {
        // Read before Redis is asked: a claim that runs meanwhile has a serial that this answer
        // cannot have yet.
        let (_, known) = self.history.serials(shard);
        let now = self.whereabouts(shard, &[]).await?;
        let (is_another, is_behind, entries) = {
            let seen = self.history.seen(shard);
            let is_another = seen
                .server
                .as_ref()
                .is_some_and(|server| *server != now.server);
            let entries: Vec<EntryId> = seen.entries.iter().map(|(_, id)| *id).collect();
            (is_another, seen.is_behind || now.serial < known, entries)
        };
        let mut look = Look {
            is_another,
            is_behind,
            ..Look::default()
        };
        // A server that does not say which it is has to show each time that it has all.
        if is_another || is_behind || now.server.is_empty() {
            let states = self.whereabouts(shard, &entries).await?.entries;
            look.entries = states
                .iter()
                .filter(|state| **state == EntryState::Lost)
                .count() as u64;
            // If it is the same server, only how far it is behind tells what happened from what
            // happened before.
            look.incident = if is_another {
                now.server.clone()
            } else {
                format!("{}:{}", now.server, now.serial)
            };
        }
        let mut seen = self.history.seen(shard);
        seen.server = Some(now.server);
        if is_another || look.is_proof() {
            seen.is_behind = false;
            // What was claimed while Redis answered is there.
            if seen.known == known {
                seen.known = now.serial;
            }
            seen.entries.retain(|(_, id)| !entries.contains(id));
        }
        Ok(look)
    }

    /// How many times this process has found shards whose server has lost writes, or may have:
    /// readers of the journal look then whether it still has what they have seen.
    pub fn incidents(&self) -> u64 {
        self.history.incidents.load(Ordering::Relaxed)
    }

    /// What is missing behind the entries that a reader has seen last, one per shard, because these
    /// entries are not there any more. A reader that has seen nothing of a shard misses nothing.
    pub async fn journal_gaps(&self, seen: &[EntryId]) -> Result<Vec<Option<Gap>>, StoreError> {
        let mut gaps = Vec::with_capacity(seen.len());
        for (shard, id) in (0..self.shards()).zip(seen) {
            if *id == EntryId::default() {
                gaps.push(None);
                continue;
            }
            let Whereabouts {
                entries,
                first,
                before,
                ..
            } = self.whereabouts(shard, &[*id]).await?;
            let state = *entries.first().unwrap_or(&EntryState::Lost);
            gaps.push((state != EntryState::Kept).then_some(Gap {
                state,
                after: before,
                first,
            }));
        }
        Ok(gaps)
    }

    /// Asks where a shard's history is, and what became of these entries of its journal.
    pub(crate) async fn whereabouts(
        &self,
        shard: u16,
        entries: &[EntryId],
    ) -> Result<Whereabouts, StoreError> {
        let mut call = self.call(&HISTORY, shard);
        for id in entries {
            call.arg(id.to_string());
        }
        let (_, server, serial, letters, first, before): (
            i64,
            String,
            u64,
            String,
            String,
            String,
        ) = self.connections.script(&call).await?;
        let other_shape = |_| StoreError::Refused("history answered in another shape".to_owned());
        let state = |letter| match letter {
            b'k' => EntryState::Kept,
            b't' => EntryState::Trimmed,
            _ => EntryState::Lost,
        };
        Ok(Whereabouts {
            server,
            serial,
            entries: letters.bytes().map(state).collect(),
            first: if first.is_empty() {
                None
            } else {
                Some(first.parse().map_err(other_shape)?)
            },
            before: before.parse().map_err(other_shape)?,
        })
    }
}
