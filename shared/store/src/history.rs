//! What this process has seen of the history of each shard, to detect what Redis loses. Redis may
//! lose its last writes, but not what is remembered here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::entry_id::EntryId;

/// Of the entries that this process wrote within this time, only the newest is remembered.
const SPAN: Duration = Duration::from_millis(250);

/// How many entries are remembered per shard: those of the last seconds in which this process
/// wrote.
const ENTRIES_MAX: usize = 16;

/// What one process has seen. All handles on its store share it.
#[derive(Debug)]
pub(crate) struct History {
    shards: Box<[Mutex<Seen>]>,
    /// How many times this process has found shards whose server has lost writes, or may have.
    pub(crate) incidents: AtomicU64,
    /// Notified when a claim has found that writes were lost.
    pub(crate) noticed: Notify,
}

/// What one process has seen of one shard.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The highest serial of a lease, including leases that Redis has lost.
    pub(crate) serial: u64,
    /// The serial that Redis has at least, unless it loses writes.
    pub(crate) known: u64,
    /// Set when a claim found a serial in Redis that is lower than `known`.
    pub(crate) is_behind: bool,
    /// The newest journal entries that this process wrote, oldest first, and when.
    pub(crate) entries: VecDeque<(Instant, EntryId)>,
    /// Which server answered the last time, and which history it followed.
    pub(crate) server: Option<String>,
}

impl History {
    /// Creates an empty history of this many shards.
    pub(crate) fn new(shards: u16) -> Self {
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            incidents: AtomicU64::new(0),
            noticed: Notify::new(),
        }
    }

    pub(crate) fn seen(&self, shard: u16) -> MutexGuard<'_, Seen> {
        // No code that holds the lock can panic midway.
        self.shards[usize::from(shard)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the highest serial of a lease that was seen in a shard, and the serial that Redis
    /// should have at least; 0 if none was seen.
    pub(crate) fn serials(&self, shard: u16) -> (u64, u64) {
        let seen = self.seen(shard);
        (seen.serial, seen.known)
    }

    /// Notes the result of a claim: it found the serial `before` in Redis, which should have been
    /// at least `known`, and its own lease has `serial`.
    pub(crate) fn note_claim(&self, shard: u16, known: u64, before: u64, serial: Option<u64>) {
        let mut seen = self.seen(shard);
        // A check may have found this loss meanwhile. Then it is reported already.
        let known = known.min(seen.known);
        let serial = serial.unwrap_or(0);
        (seen.serial, seen.known) = (seen.serial.max(serial), seen.known.max(serial));
        if before < known {
            seen.is_behind = true;
            self.noticed.notify_one();
        }
    }

    /// Counts that shards were found whose server has lost writes, or may have.
    pub(crate) fn note_incidents(&self) {
        self.incidents.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that this process wrote an entry into a shard's journal, and Redis confirmed it.
    pub(crate) fn note_entry(&self, shard: u16, id: &str) {
        // A call that changed nothing wrote no entry.
        let Ok(id) = id.parse::<EntryId>() else {
            return;
        };
        let now = Instant::now();
        let mut state = self.seen(shard);
        match state.entries.back_mut() {
            Some((at, newest)) if now.duration_since(*at) < SPAN => *newest = id.max(*newest),
            _ => {
                if state.entries.len() == ENTRIES_MAX {
                    state.entries.pop_front();
                }
                state.entries.push_back((now, id));
            }
        }
    }
}
