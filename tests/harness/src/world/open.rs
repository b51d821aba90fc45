//! How a world is opened, where, and with which settings.

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
use super::{SHARDS, World};
use crate::mail::MailSystem;
use crate::wait::eventually;
use crate::{cluster, redis};

/// What a world is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Redis is.
    pub redis: Deployment,
    /// What its clock shows at first.
    pub start: Timestamp,
    /// How many messages a job holds.
    pub max_messages: usize,
    /// How often in a row a job may lapse.
    pub max_lapses: u32,
    /// Pace and breaker of all destinations.
    pub pace: Pace,
    /// Limits of destinations of their own.
    pub rules: Vec<DestinationRule>,
    /// How long what a relay took waits for a bounce.
    pub confirm: Duration,
}

impl Default for Settings {
    /// The tests' own server, 21 November 2026, 32 messages, and as many attempts at once at a
    /// destination that has not answered yet as at others.
    fn default() -> Self {
        Self {
            redis: Deployment::default(),
            start: Timestamp::parse("2026-11-21T09:30:00Z").expect("it is an instant"),
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

/// Where a test's store is. It means the same on each.
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

    /// Does to Redis what no program of ours would.
    pub async fn tell(&self, words: &[&str]) {
        match self {
            Self::Server(url) => drop(redis::ask(url, words).await),
            Self::Cluster => drop(cluster::ask(words)),
        }
    }
}

impl World {
    /// A world of its own.
    pub async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    /// A world of its own, with these settings.
    pub async fn with(settings: Settings) -> Self {
        let connections = settings.redis.connections();
        Self::on(connections, settings).await
    }

    /// A world of its own on other servers than those of the settings.
    pub async fn on(connections: Connections, settings: Settings) -> Self {
        Self::under(redis::unique_prefix(), connections, settings).await
    }

    /// Another process on the store of `world`: what it remembers and its clock are its own.
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

    /// From now on the store is one that has just been opened, on the same keys.
    pub async fn restart(&mut self) {
        self.store = open(
            self.connections.clone(),
            &self.settings,
            &self.prefix,
            &self.clock,
        )
        .await;
    }

    /// The same store as a process of its own sees it: by the servers' clock.
    pub async fn store_by_real_time(&self) -> Store {
        self.store_by(Arc::new(SystemClock)).await
    }

    /// From now on bounces are taken in by a scheduler whose machine has this clock.
    pub async fn take_in_by(&mut self, clock: Arc<dyn Clock>) {
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
        store.expect("it is open already")
    }

    /// The same store by another way, as through a proxy, on which an answer may take `timeout`.
    ///
    /// # Panics
    /// Where nothing answers there.
    pub async fn store_at(&self, url: &str, timeout: Duration) -> Store {
        let connections = redis::connections_with(url, timeout);
        // A time limit that is to be met soon is short for opening a store on a busy machine.
        eventually("the way to be open", async || {
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

/// What attempts are made by where all mail leaves by one sender.
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
    opened.expect("the tests' own Redis answers, and all stores under a prefix have one shape")
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
