//! Opens a world: its settings, its Redis and its store.

use std::sync::Arc;
use std::time::Duration;

use config::model::Config;
use domain::clock::{Clock, ManualClock, Timestamp};
use domain::pace::{DestinationRule, Pace};
use policy::table::Table;
use scheduler::intake::accept::Accept;
use scheduler::placement::Placer;
use senders::sender::Sender;
use store::connection::pool::Connections;
use store::error::StoreError;
use store::handle::{Limits, Store};
use system::clock::SystemClock;
use worker::attempt::Attempter;

use super::worker::{contents, routes};
use super::{DAY, SHARDS, World};
use crate::mail::MailSystem;
use crate::wait::eventually;
use crate::{cluster, redis};

/// The settings of a world.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its Redis.
    pub redis: Deployment,
    /// The time that its clock shows at first.
    pub start: Timestamp,
    /// The most messages in a job.
    pub max_messages: usize,
    /// How often in a row a job may lapse.
    pub max_lapses: u32,
    /// Pace and breaker of all destinations.
    pub pace: Pace,
    /// The limits of single destinations.
    pub rules: Vec<DestinationRule>,
    /// How long to wait for a bounce after a relay has accepted a message.
    pub confirm: Duration,
}

impl Default for Settings {
    /// The tests' own server, 21 November 2026, and 32 messages. A destination that has not
    /// answered yet gets as many attempts at once as one that has.
    fn default() -> Self {
        Self {
            redis: Deployment::default(),
            start: Timestamp::parse("2026-11-21T09:30:00Z").expect("the constant is valid"),
            max_messages: 32,
            max_lapses: 5,
            pace: Pace {
                window_new: Pace::default().window,
                ..Pace::default()
            },
            rules: Vec::new(),
            confirm: Duration::ZERO,
        }
    }
}

impl Settings {
    /// The default settings, with a clock that is three days behind the clock of the machine. So
    /// the jobs of the world are due by the clock of a real worker.
    pub fn days_behind() -> Self {
        let epoch = Timestamp::default();
        Self {
            start: epoch.plus(SystemClock.now().since(epoch) - 3 * DAY),
            ..Self::default()
        }
    }
}

/// The Redis of a test's store. The same test works with either.
#[derive(Clone, Debug)]
pub enum Deployment {
    /// One server, by its URL.
    Server(String),
    /// The Cluster that tests of this process share.
    Cluster,
}

impl Default for Deployment {
    /// The server that tests of this process share.
    fn default() -> Self {
        Self::Server(redis::url())
    }
}

impl Deployment {
    fn connections(&self) -> Connections {
        match self {
            Self::Server(url) => redis::connections(url),
            Self::Cluster => cluster::connections(),
        }
    }

    /// Sends a command to Redis directly, for changes that no program of Redeliver would make.
    pub async fn run_command(&self, words: &[&str]) {
        match self {
            Self::Server(url) => drop(redis::ask(url, words).await),
            Self::Cluster => drop(cluster::ask(words)),
        }
    }
}

impl World {
    /// Opens a new world with the default settings.
    pub async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    /// Opens a new world with these settings.
    pub async fn with(settings: Settings) -> Self {
        let connections = settings.redis.connections();
        Self::on(connections, settings).await
    }

    /// Opens a new world on these connections, instead of connections to the servers of the
    /// settings.
    pub async fn on(connections: Connections, settings: Settings) -> Self {
        Self::under(redis::unique_prefix(), connections, settings).await
    }

    /// Opens another world on the same keys as `world`, like another process: it has its own memory
    /// and its own clock.
    pub async fn sharing(world: &Self) -> Self {
        let settings = Settings {
            start: world.now(),
            redis: world.settings.redis.clone(),
            ..Settings::default()
        };
        Self::under(world.prefix.clone(), settings.redis.connections(), settings).await
    }

    async fn under(prefix: String, connections: Connections, settings: Settings) -> Self {
        let table = Table::embedded();
        let clock = Arc::new(ManualClock::new(settings.start));
        let store = open(connections.clone(), &settings, &prefix, &clock).await;
        let mail = Arc::new(MailSystem::default());
        let attempter = attempter(mail.clone(), settings.confirm, &clock);
        let accept = Accept::new(store.clone(), table, Placer::new(store.clone(), None));
        Self {
            clock,
            store,
            mail,
            prefix,
            connections,
            settings,
            accept,
            attempter,
        }
    }

    /// Opens the store again on the same keys, like a process that was restarted.
    pub async fn restart(&mut self) {
        self.store = open(
            self.connections.clone(),
            &self.settings,
            &self.prefix,
            &self.clock,
        )
        .await;
    }

    /// Returns the same store as a separate process sees it: its time is the clock of the Redis
    /// servers.
    pub async fn store_by_real_time(&self) -> Store {
        self.store_by(Arc::new(SystemClock)).await
    }

    /// From now on, bounces are processed by a scheduler whose machine has this clock.
    pub async fn set_intake_clock(&mut self, clock: Arc<dyn Clock>) {
        let store = self.store_by(clock).await;
        let placer = Placer::new(store.clone(), None);
        self.accept = Accept::new(store, Table::embedded(), placer);
    }

    async fn store_by(&self, clock: Arc<dyn Clock>) -> Store {
        let limits = limits(&self.settings);
        let store = Store::open(
            self.connections.clone(),
            &self.prefix,
            SHARDS,
            limits,
            clock,
        )
        .await;
        store.expect("the store was open before, so it can be opened again")
    }

    /// Returns the same store over another connection, for example through a proxy. An answer may
    /// take `timeout`.
    ///
    /// # Panics
    /// If no server answers there.
    pub async fn store_at(&self, url: &str, timeout: Duration) -> Store {
        let connections = redis::connections_with(url, timeout);
        // A test's short timeout may be too short to open a store on a busy machine, so this is
        // tried again.
        eventually("the store to open", async || {
            try_open(
                connections.clone(),
                &self.settings,
                &self.prefix,
                &self.clock,
            )
            .await
            .ok()
        })
        .await
    }
}

/// Returns an attempter that sends all mail by one sender.
pub(super) fn attempter(
    sender: Arc<dyn Sender>,
    confirm: Duration,
    clock: &Arc<ManualClock>,
) -> Attempter {
    Attempter::new(
        routes(sender, confirm),
        contents(),
        Table::embedded(),
        clock.clone(),
    )
}

async fn open(
    connections: Connections,
    settings: &Settings,
    prefix: &str,
    clock: &Arc<ManualClock>,
) -> Store {
    let opened = try_open(connections, settings, prefix, clock).await;
    opened.expect("the tests' own Redis answers, and stores with one prefix have one layout")
}

async fn try_open(
    connections: Connections,
    settings: &Settings,
    prefix: &str,
    clock: &Arc<ManualClock>,
) -> Result<Store, StoreError> {
    let store = Store::open(connections, prefix, SHARDS, limits(settings), clock.clone()).await?;
    Ok(store.with_rules(&settings.rules))
}

fn limits(settings: &Settings) -> Limits {
    let Settings {
        max_messages,
        max_lapses,
        pace,
        ..
    } = *settings;
    Limits {
        max_messages,
        max_lapses,
        pace,
        ..Config::embedded().limits(&Table::embedded())
    }
}
