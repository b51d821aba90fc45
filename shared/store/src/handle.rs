//! The handle on the store: its connections, and what every call needs. Each verb adds its methods
//! in a file of its own.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::{FromRedisValue, Pipeline, pipe};
use domain::clock::Clock;
use domain::pace::{DestinationRule, Pace};
use placement::providers::Providers;
use telemetry::ids::IdHasher;
use telemetry::metrics::Metrics;

use crate::change_log::ChangeLog;
use crate::connection::pool::Connections;
use crate::error::StoreError;
use crate::history::History;
use crate::keys::{self, Keys};
use crate::places::{PlaceBounds, Places};

/// Bounds that the scripts enforce.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many messages a job holds at most.
    pub max_messages: usize,
    /// How many bytes a job's record has at most; twice as many while it is leased.
    pub record_max: usize,
    /// How long an address is unavailable the first time.
    pub unavailable_for: Duration,
    /// How long an address is unavailable at most.
    pub unavailable_max: Duration,
    /// How many times in a row an address may become unavailable: the last of them makes it
    /// inactive.
    pub strikes: u32,
    /// How many times in a row a job may lapse: the last of them puts it into quarantine.
    pub max_lapses: u32,
    /// Pace and breaker of destinations that have no limits of their own.
    pub pace: Pace,
}

/// A handle on the store. Cloning it is cheap and shares the connections.
#[derive(Clone)]
pub struct Store {
    pub(crate) connections: Connections,
    pub(crate) keys: Arc<Keys>,
    pub(crate) places: Arc<Places>,
    pub(crate) history: Arc<History>,
    pub(crate) limits: Limits,
    pub(crate) rules: Arc<[DestinationRule]>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) changes: ChangeLog,
    /// The name of the token of the client that this handle acts for, if it has one.
    pub(crate) by: Option<Arc<str>>,
}

impl Store {
    /// Opens the store with `shards` shards under `prefix`. Writes its shape, or checks the shape
    /// that is there.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if the data under this prefix has another shape, if the servers
    /// cannot reach the configured durability, or if one of their settings breaks another promise.
    pub async fn open(
        connections: Connections,
        prefix: &str,
        shards: u16,
        limits: Limits,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let keys = Arc::new(Keys::new(prefix, shards));
        let places = Arc::new(Places::new(
            Providers::embedded(),
            PlaceBounds::default(),
            keys.shards(),
        ));
        let history = Arc::new(History::new(keys.shards()));
        let changes = ChangeLog::new(&[], connections.metrics().clone());
        let store = Self {
            connections,
            keys,
            places,
            history,
            limits,
            rules: Arc::default(),
            clock,
            changes,
            by: None,
        };
        let address_key = store.check_meta().await?;
        store.connections.check_durability().await?;
        store.check_servers_at_start().await?;
        Ok(store.with_address_key(address_key.as_bytes()))
    }

    /// Returns the same store with these rules. A destination that a rule covers gets its own
    /// limits when jobs are scheduled there.
    #[must_use]
    pub fn with_rules(self, rules: &[DestinationRule]) -> Self {
        Self {
            rules: rules.into(),
            ..self
        }
    }

    /// Returns the same store, with these providers and bounds instead of the built-in ones.
    #[must_use]
    pub fn with_places(mut self, providers: Providers, bounds: PlaceBounds) -> Self {
        let names = providers.list().iter().map(|provider| &*provider.name);
        self.metrics().name_destinations(names);
        self.places = Arc::new(Places::new(providers, bounds, self.shards()));
        self
    }

    /// Returns the same store. In logs and traces, hashes under this key stand for addresses.
    #[must_use]
    pub fn with_address_key(mut self, key: &[u8]) -> Self {
        self.changes = ChangeLog::new(key, self.metrics().clone());
        self
    }

    /// Returns the same store for what a client does with this token. The events of bounces, facts
    /// and operators' commands name the token.
    #[must_use]
    pub fn on_behalf_of(&self, token: Option<&str>) -> Self {
        Self {
            by: token.map(Arc::from),
            ..self.clone()
        }
    }

    /// Returns the name of the client's token, if it has one.
    pub fn token(&self) -> Option<&str> {
        self.by.as_deref()
    }

    /// Returns the name of the client's token as an argument of scripts: `''` if there is none.
    pub(crate) fn by(&self) -> &str {
        self.by.as_deref().unwrap_or_default()
    }

    /// Returns what makes the hashes that stand for addresses in logs and traces.
    pub fn ids(&self) -> &IdHasher {
        &self.changes.ids
    }

    /// Returns how many shards there are.
    pub fn shards(&self) -> u16 {
        self.keys.shards()
    }

    /// Runs one pipeline for each shard, all at the same time. Returns the answers in the order of
    /// the shards. The keys of several shards are in several slots, and may be on several servers.
    pub(crate) async fn on_each_shard<T: FromRedisValue>(
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

    /// Returns the metrics of this process.
    pub fn metrics(&self) -> &Metrics {
        self.connections.metrics()
    }

    /// Returns the clock of this process.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("keys", &self.keys)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
