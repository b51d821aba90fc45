//! The store: jobs, leases, standings and the journal in Redis. It moves jobs and never chooses a retry.
//!
//! Each verb has a file here and a script of the same name in `lua/`; a batch is one call per shard.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::{FromRedisValue, Pipeline, pipe};
use domain::clock::Clock;
use domain::pace::{DestinationRule, Pace};
use placement::providers::Providers;

pub mod address;
pub mod claim;
pub mod connection;
pub mod destination;
pub mod destinations;
pub mod facts;
pub mod heard;
pub mod history;
pub mod intake;
pub mod journal;
pub mod keys;
pub mod lease;
pub mod lease_token;
pub mod limits;
pub mod losses;
pub mod meta;
pub mod place;
pub mod quarantine;
mod raw;
pub mod refute;
pub mod repair;
pub mod schedule;
pub mod scripts;
pub mod server_checks;
pub mod settle;
pub mod tally;
pub mod under_way;
pub mod upkeep;
pub mod waits;
pub mod workers;

use connection::Connections;
use history::History;
use keys::Keys;
use place::{PlaceBounds, Places};

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
    /// Redis does not let our user do this: try again when an operator has allowed it.
    #[error("redis does not allow it: {0}")]
    Forbidden(String),
    /// Redis refused the call, or answered what this version does not understand: it will be the
    /// same the next time.
    #[error("redis refused: {0}; look at the data of this redis.prefix, and at which versions of redeliver use it")]
    Refused(String),
    /// What was told is in, and a worker has not stopped sending yet to an address that it suppresses: tell it again.
    #[error("what was told is in, but a worker is still sending to an address that it suppresses; tell it again")]
    UnderWay,
    /// The data belongs to a store of another shape.
    #[error("{0}")]
    Mismatch(String),
}

impl StoreError {
    /// Whether the same call can succeed later, so that what it says has to be kept and must not be
    /// dropped.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Forbidden(_) | Self::UnderWay)
    }

    /// What a server answered, if that has a name: "OOM: the server's memory is full; …". It may be
    /// shown to clients.
    pub fn named(&self) -> Option<String> {
        connection::named(self)
    }
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
    places: Arc<Places>,
    history: Arc<History>,
    limits: Limits,
    rules: Arc<[DestinationRule]>,
    clock: Arc<dyn Clock>,
}

impl Store {
    /// Opens the store with `shards` shards under `prefix`: writes or checks its shape.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] where the data under this prefix has another shape, or the servers cannot keep the
    /// configured durability, or are set in a way that breaks another promise.
    pub async fn open(
        connections: Connections,
        prefix: &str,
        shards: u16,
        limits: Limits,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let keys = Arc::new(Keys::new(prefix, shards));
        let places = Arc::new(Places::new(Providers::embedded(), PlaceBounds::default(), keys.shards()));
        let history = Arc::new(History::new(keys.shards()));
        let store = Self { connections, keys, places, history, limits, rules: Arc::default(), clock };
        store.check_meta().await?;
        store.connections.check_durability().await?;
        store.check_servers_at_start().await?;
        Ok(store)
    }

    /// The same store, which gives destinations that these rules cover their own limits as jobs are scheduled there.
    #[must_use]
    pub fn with_rules(self, rules: &[DestinationRule]) -> Self {
        Self { rules: rules.into(), ..self }
    }

    /// The same store, with these providers and bounds in place of those that ship.
    #[must_use]
    pub fn with_places(mut self, providers: Providers, bounds: PlaceBounds) -> Self {
        self.places = Arc::new(Places::new(providers, bounds, self.shards()));
        self
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.keys.shards()
    }

    /// Runs one pipeline for each shard, all at once, and answers in the order of the shards: keys of several shards are of
    /// several slots, and may be of several servers.
    async fn on_each_shard<T: FromRedisValue>(
        &self,
        mut ask: impl FnMut(&keys::Shard, &mut Pipeline),
    ) -> Result<Vec<T>, StoreError> {
        let pipelines: Vec<Pipeline> = (0..self.shards())
            .map(|shard| {
                let mut commands = pipe();
                ask(self.keys.shard(shard), &mut commands);
                commands
            })
            .collect();
        self.connections.pipelines(&pipelines).await
    }

    /// The clock of this process.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

/// The sum of what is done on one shard after the other. A shard that fails does not keep the
/// others from their turn.
#[derive(Debug, Default)]
pub struct OverShards {
    sum: u64,
    first_error: Option<StoreError>,
}

impl OverShards {
    /// Adds what became of one shard.
    pub fn add(&mut self, outcome: Result<u64, StoreError>) {
        match outcome {
            Ok(count) => self.sum += count,
            Err(err) => {
                self.first_error.get_or_insert(err);
            }
        }
    }

    /// The sum of all.
    ///
    /// # Errors
    /// The first of them.
    pub fn end(self) -> Result<u64, StoreError> {
        self.first_error.map_or(Ok(self.sum), Err)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("keys", &self.keys).field("limits", &self.limits).finish_non_exhaustive()
    }
}
