//! What this process has seen of the history of each shard. Redis may lose its last writes; what is here, it cannot.

use std::sync::atomic::{AtomicU64, Ordering};

/// What one process has seen. All handles on its store share it.
#[derive(Debug)]
pub(super) struct History {
    shards: Box<[ShardHistory]>,
}

/// The same of one shard.
#[derive(Debug, Default)]
struct ShardHistory {
    /// The highest serial of a lease.
    serial: AtomicU64,
}

impl History {
    /// Nothing yet, of so many shards.
    pub(super) fn new(shards: u16) -> Self {
        Self { shards: (0..shards).map(|_| ShardHistory::default()).collect() }
    }

    /// The highest serial of a lease that was seen in a shard; 0 if none was.
    pub(super) fn serial(&self, shard: u16) -> u64 {
        self.shards[usize::from(shard)].serial.load(Ordering::Relaxed)
    }

    /// A lease of a shard had this serial.
    pub(super) fn note_serial(&self, shard: u16, serial: u64) {
        self.shards[usize::from(shard)].serial.fetch_max(serial, Ordering::Relaxed);
    }
}
