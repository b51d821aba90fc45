//! Checks whether Redis still has what this process has seen of each shard, and finds what is
//! missing.

use std::sync::atomic::Ordering;

use crate::entry_id::EntryId;
use crate::error::StoreError;
use crate::handle::Store;
use crate::scripts::HISTORY;

/// The result of checking one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LossCheck {
    /// Whether the server is another one than last time, was restarted, or followed another master
    /// meanwhile. Only then, or with proof, writes can have been lost.
    pub server_changed: bool,
    /// Whether its serial was lower than what this process had seen: proof that writes were lost.
    pub is_behind: bool,
    /// How many of the journal entries that this process remembers are lost: proof as well.
    pub entries: u64,
    /// Identifies what happened. All processes that notice it compute the same text.
    pub(crate) incident: String,
}

impl LossCheck {
    /// Whether writes have certainly been lost.
    pub fn is_proof(&self) -> bool {
        self.is_behind || self.entries > 0
    }
}

/// The state of a journal entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// It exists.
    Kept,
    /// It was deleted, because it is older than `journal.keep`.
    Trimmed,
    /// Redis has lost it.
    Lost,
}

/// What is missing for a reader of a shard's journal that wants to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The state of the last entry that the reader has seen.
    pub state: EntryState,
    /// The reader continues after this entry: the newest that exists and is not after the one that
    /// it has seen. If there is none, this is 0-0, and it continues with the first entry.
    pub after: EntryId,
    /// The oldest entry that exists, if there is any.
    pub first: Option<EntryId>,
}

/// The state of a shard's history.
pub(crate) struct HistoryState {
    pub(crate) server: String,
    pub(crate) serial: u64,
    pub(crate) entries: Vec<EntryState>,
    /// The first entry of its journal, if it has any.
    pub(crate) first: Option<EntryId>,
    /// The newest entry that is not after the first of the entries that were asked about; 0-0 if
    /// there is none.
    pub(crate) before: EntryId,
}

impl Store {
    /// Checks whether one shard's server has lost writes, or may have. The first check only
    /// remembers which server it is.
    pub async fn check_for_lost_writes(&self, shard: u16) -> Result<LossCheck, StoreError> {
        // Read before Redis is asked. A claim that runs meanwhile gets a serial that this answer
        // cannot have yet.
        let (_, known) = self.history.serials(shard);
        let now = self.history_state(shard, &[]).await?;
        let (server_changed, is_behind, entries) = {
            let seen = self.history.seen(shard);
            let server_changed = seen
                .server
                .as_ref()
                .is_some_and(|server| *server != now.server);
            let entries: Vec<EntryId> = seen.entries.iter().map(|(_, id)| *id).collect();
            (
                server_changed,
                seen.is_behind || now.serial < known,
                entries,
            )
        };
        let mut look = LossCheck {
            server_changed,
            is_behind,
            ..LossCheck::default()
        };
        // A server that does not report its identity must show each time that it has all entries.
        if server_changed || is_behind || now.server.is_empty() {
            let states = self.history_state(shard, &entries).await?.entries;
            look.entries = states
                .iter()
                .filter(|state| **state == EntryState::Lost)
                .count() as u64;
            // If it is the same server, only its serial distinguishes this incident from an earlier
            // one.
            look.incident = if server_changed {
                now.server.clone()
            } else {
                format!("{}:{}", now.server, now.serial)
            };
        }
        let mut seen = self.history.seen(shard);
        seen.server = Some(now.server);
        if server_changed || look.is_proof() {
            seen.is_behind = false;
            // A claim that was made while Redis answered is there.
            if seen.known == known {
                seen.known = now.serial;
            }
            seen.entries.retain(|(_, id)| !entries.contains(id));
        }
        Ok(look)
    }

    /// Returns how many times this process has found shards whose server has lost writes, or may
    /// have. When the number grows, readers of the journal check whether the journal still has what
    /// they have seen.
    pub fn incidents(&self) -> u64 {
        self.history.incidents.load(Ordering::Relaxed)
    }

    /// Returns what is missing for a reader, per shard: `seen` has the last entry that it has seen
    /// of each, and a gap is reported if that entry does not exist any more. A reader that has seen
    /// nothing of a shard misses nothing.
    pub async fn journal_gaps(&self, seen: &[EntryId]) -> Result<Vec<Option<Gap>>, StoreError> {
        let mut gaps = Vec::with_capacity(seen.len());
        for (shard, id) in (0..self.shards()).zip(seen) {
            if *id == EntryId::default() {
                gaps.push(None);
                continue;
            }
            let HistoryState {
                entries,
                first,
                before,
                ..
            } = self.history_state(shard, &[*id]).await?;
            let state = *entries.first().unwrap_or(&EntryState::Lost);
            gaps.push((state != EntryState::Kept).then_some(Gap {
                state,
                after: before,
                first,
            }));
        }
        Ok(gaps)
    }

    /// Asks for the state of a shard's history, and for the state of these entries of its journal.
    pub(crate) async fn history_state(
        &self,
        shard: u16,
        entries: &[EntryId],
    ) -> Result<HistoryState, StoreError> {
        let mut call = self.call(&HISTORY, shard);
        for id in entries {
            call.arg("entry_id", id.to_string());
        }
        let (_, server, serial, letters, first, before): (
            i64,
            String,
            u64,
            String,
            String,
            String,
        ) = self.connections.script(&call).await?;
        let unexpected = |_| StoreError::Refused("unexpected reply of history".to_owned());
        let state = |letter| match letter {
            b'k' => EntryState::Kept,
            b't' => EntryState::Trimmed,
            _ => EntryState::Lost,
        };
        Ok(HistoryState {
            server,
            serial,
            entries: letters.bytes().map(state).collect(),
            first: if first.is_empty() {
                None
            } else {
                Some(first.parse().map_err(unexpected)?)
            },
            before: before.parse().map_err(unexpected)?,
        })
    }
}
