//! What this process has seen of the history of each shard, and whether Redis still has it. Redis
//! may lose its last writes; what is remembered here, it cannot.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::entry_id::EntryId;

/// Of the entries that this process wrote within so long, the newest is remembered.
const SPAN: Duration = Duration::from_millis(250);

/// How many of these are remembered per shard: those of the last seconds in which it wrote.
const ENTRIES_MAX: usize = 16;

/// What one process has seen. All handles on its store share it.
#[derive(Debug)]
pub(crate) struct History {
    shards: Box<[Mutex<Seen>]>,
    /// How many times this process has found shards whose server has lost writes, or may have.
    pub(crate) incidents: AtomicU64,
    /// Told when a claim has found that writes were lost.
    pub(crate) noticed: Notify,
}

/// The same of one shard.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The highest serial of a lease, also of those that Redis has lost.
    pub(crate) serial: u64,
    /// The serial that Redis has at least, unless it loses writes.
    pub(crate) known: u64,
    /// Set when a claim found that Redis's serial was behind that one.
    pub(crate) is_behind: bool,
    /// The newest journal entries that this process wrote, oldest first, and when.
    pub(crate) entries: VecDeque<(Instant, EntryId)>,
    /// Which server answered the last time, and which history it followed.
    pub(crate) server: Option<String>,
}

impl History {
    /// Nothing yet, of so many shards.
    pub(crate) fn new(shards: u16) -> Self {
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            incidents: AtomicU64::new(0),
            noticed: Notify::new(),
        }
    }

    pub(crate) fn seen(&self, shard: u16) -> MutexGuard<'_, Seen> {
        // Nothing that holds it can panic midway.
        self.shards[usize::from(shard)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest serial of a lease that was seen in a shard, and the one that Redis should have
    /// at least; 0 if none was seen.
    pub(crate) fn serials(&self, shard: u16) -> (u64, u64) {
        let seen = self.seen(shard);
        (seen.serial, seen.known)
    }

    /// A claim found the serial `before` in Redis, which should have had `known` at least, and
    /// `serial` was given to it.
    pub(crate) fn note_claim(&self, shard: u16, known: u64, before: u64, serial: Option<u64>) {
        let mut seen = self.seen(shard);
        // A look may have found this loss meanwhile. Then it is told already.
        let known = known.min(seen.known);
        let serial = serial.unwrap_or(0);
        (seen.serial, seen.known) = (seen.serial.max(serial), seen.known.max(serial));
        if before < known {
            seen.is_behind = true;
            self.noticed.notify_one();
        }
    }

    /// Shards were found whose server has lost writes, or may have.
    pub(crate) fn note_incidents(&self) {
        self.incidents.fetch_add(1, Ordering::Relaxed);
    }

    /// This process wrote an entry into a shard's journal, and was answered.
    pub(crate) fn note_entry(&self, shard: u16, id: &str) {
        // A call that changed nothing wrote none.
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
