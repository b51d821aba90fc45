//! The store: jobs, leases, standings and the journal in Redis. It moves jobs and never chooses a retry.
//!
//! Each verb has a file here and a script of the same name in `lua/`; a batch is one call per shard.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::pace::{DestinationRule, Pace};

pub mod address;
pub mod claim;
pub mod connection;
pub mod destination;
pub mod journal;
pub mod keys;
pub mod lease;
pub mod meta;
pub mod private;
pub mod quarantine;
pub mod schedule;
pub mod scripts;
pub mod settle;
pub mod tally;
pub mod upkeep;

use connection::Connections;
use keys::Keys;

/// How many jobs one script call takes at most: it bounds how long a call keeps Redis from others.
pub const BATCH_MAX: usize = 500;

/// How many bytes of messages it takes at most, for the same reason; a single larger item goes alone.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Why the store did not do what was asked, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Redis could not be reached, or is not ready: try again later. Whether the call took effect is unknown.
    #[error("redis does not answer: {0}")]
    Unavailable(String),
    /// Redis refused the call, or answered what this version does not understand: trying again does not help.
    #[error("redis refused: {0}; look at the user and password in redis.url, and at the data of this prefix")]
    Refused(String),
    /// The data belongs to a store of another shape.
    #[error("{0}")]
    Mismatch(String),
}

/// Bounds that the scripts keep.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many messages a job holds at most.
    pub max_messages: usize,
    /// How many bytes its record has at most; twice that while it is leased.
    pub record_max: usize,
    /// How long an address is unavailable the first time.
    pub unavailable_for: Duration,
    /// How long it is so at most.
    pub unavailable_max: Duration,
    /// The time in a row that makes it inactive.
    pub strikes: u32,
    /// How often in a row a job may lapse before it is quarantined.
    pub max_lapses: u32,
    /// Pace and breaker of destinations that have no limits of their own.
    pub pace: Pace,
}

/// A handle on the store. Cloning it is cheap and shares the connections.
#[derive(Clone)]
pub struct Store {
    connections: Connections,
    keys: Arc<Keys>,
    limits: Limits,
    rules: Arc<[DestinationRule]>,
    clock: Arc<dyn Clock>,
}

impl Store {
    /// Opens the store with `shards` shards under `prefix`: writes or checks its shape.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] where the data under this prefix has another shape.
    pub async fn open(
        connections: Connections,
        prefix: &str,
        shards: u16,
        limits: Limits,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let store =
            Self { connections, keys: Arc::new(Keys::new(prefix, shards)), limits, rules: Arc::default(), clock };
        store.check_meta().await?;
        Ok(store)
    }

    /// The same store, which gives destinations that these rules cover their own limits as jobs are scheduled there.
    #[must_use]
    pub fn with_rules(self, rules: &[DestinationRule]) -> Self {
        Self { rules: rules.into(), ..self }
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.keys.shards()
    }

    /// The clock of this process.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("keys", &self.keys).field("limits", &self.limits).finish_non_exhaustive()
    }
}
