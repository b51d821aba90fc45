//! The servers of the fleet in the shape of the run: how they are started, queried and broken.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{self, AsyncConnectionConfig, FromRedisValue, RedisResult};
use harness::port::free_port;
use harness::servers::{Cluster, SENTINEL_PASSWORD, Sentinel, Servers, programs};

use crate::options::Shape;

mod clock;
mod faults;
mod slots;

pub(crate) use clock::ServerClock;

/// How many shards a store has. All processes agree on it.
pub(crate) const SHARDS: usize = 8;

/// How long an answer may take before a server counts as away.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The options of every server whose shape keeps acknowledged writes.
const DURABLE: [&str; 3] = [
    "appendonly yes",
    "appendfsync always",
    "maxmemory-policy noeviction",
];

/// The same for servers with replicas. In addition, a master without a replica accepts no writes.
/// This stops a master that was replaced and does not know it yet (docs/guides/deployment.md).
const REPLICATED: [&str; 5] = [
    DURABLE[0],
    DURABLE[1],
    DURABLE[2],
    "min-replicas-to-write 1",
    "min-replicas-max-lag 3",
];

/// The running servers.
pub(crate) struct Store {
    pub(crate) shape: Shape,
    servers: Running,
    /// The socket of a server that processes reach through links.
    socket: String,
    /// The clock of a server whose clock can be set.
    clock: Option<ServerClock>,
}

enum Running {
    One(Servers, u16),
    Sentinel(Sentinel),
    Cluster(Cluster),
}

impl Store {
    /// Starts servers, and waits until each master has its replica. Only a single server may have a
    /// clock that can be set.
    pub(crate) async fn start(shape: Shape, clock: Option<ServerClock>) -> anyhow::Result<Self> {
        let program = programs().remove(0);
        let mut socket = String::new();
        let servers = match shape {
            Shape::Single | Shape::Snapshot => {
                let servers = clock
                    .as_ref()
                    .map_or_else(|| Servers::new(&program), ServerClock::servers);
                let port = free_port();
                socket = servers
                    .folder()
                    .join("server.sock")
                    .to_string_lossy()
                    .into_owned();
                let listens = format!("unixsocket {socket}");
                let durability: &[&str] = if shape == Shape::Single {
                    &DURABLE
                } else {
                    &DURABLE[2..]
                };
                servers
                    .start_on(port, &[durability, &[&listens]].concat())
                    .await;
                Running::One(servers, port)
            }
            Shape::Sentinel => Running::Sentinel(Sentinel::start(&program, &REPLICATED).await),
            Shape::Cluster => Running::Cluster(Cluster::start(&program, &REPLICATED).await),
        };
        Ok(Self {
            shape,
            servers,
            socket,
            clock,
        })
    }

    /// The URL to which links connect.
    pub(crate) fn socket_url(&self) -> String {
        format!("redis+unix://{}", self.socket)
    }

    /// The lines of `[redis]` with the addresses of the servers. A process with a link gets the
    /// address of the link instead.
    pub(crate) fn section(&self, link: Option<&str>) -> String {
        match &self.servers {
            Running::One(..) => format!("url = \"{}\"", link.unwrap_or(&self.socket_url())),
            Running::Sentinel(sentinel) => {
                let nodes = sentinel
                    .sentinels
                    .map(|port| format!("\"redis://127.0.0.1:{port}\""))
                    .join(", ");
                format!(
                    "sentinel = {{ master = \"mail\", nodes = [{nodes}] }}\n\
                     sentinel_password = \"{SENTINEL_PASSWORD}\""
                )
            }
            Running::Cluster(cluster) => {
                let nodes: Vec<String> = cluster
                    .ports
                    .iter()
                    .map(|port| format!("\"redis://127.0.0.1:{port}\""))
                    .collect();
                format!("cluster = [{}]", nodes.join(", "))
            }
        }
    }

    /// The clock, if it can be set.
    pub(crate) fn clock(&self) -> Option<&ServerClock> {
        self.clock.as_ref()
    }

    fn servers(&self) -> &Servers {
        match &self.servers {
            Running::One(servers, _) => servers,
            Running::Sentinel(sentinel) => &sentinel.servers,
            Running::Cluster(cluster) => &cluster.servers,
        }
    }

    /// The ports of the servers that hold data.
    pub(crate) fn ports(&self) -> Vec<u16> {
        match &self.servers {
            Running::One(_, port) => vec![*port],
            Running::Sentinel(sentinel) => vec![sentinel.master, sentinel.replica],
            Running::Cluster(cluster) => cluster.ports.clone(),
        }
    }

    /// A connection to the server on `port`. Its commands have a short time limit.
    pub(crate) async fn connect(&self, port: u16) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_MAX))
            .set_response_timeout(Some(ANSWER_MAX));
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// Sends one command to the server on `port`.
    pub(crate) async fn ask<T: FromRedisValue>(
        &self,
        port: u16,
        command_words: &[&str],
    ) -> RedisResult<T> {
        command(command_words)
            .query_async(&mut self.connect(port).await?)
            .await
    }

    /// The ports of the servers that are masters now and answer. For Sentinel, the master is the
    /// one that the sentinels name.
    pub(crate) async fn masters(&self) -> Vec<u16> {
        let mut masters = Vec::new();
        for port in self.ports() {
            let role: RedisResult<Vec<redis::Value>> = self.ask(port, &["ROLE"]).await;
            let is_master = |role: &Vec<redis::Value>| {
                let name = role.first().map(redis::from_redis_value_ref::<String>);
                matches!(name, Some(Ok(name)) if name == "master")
            };
            if role.is_ok_and(|role| is_master(&role)) {
                masters.push(port);
            }
        }
        masters
    }

    /// The master of each shard, if all of them have one that answers.
    pub(crate) async fn shards(&self) -> Option<Vec<u16>> {
        let masters = self.masters().await;
        let Running::Cluster(_) = self.servers else {
            return matches!(masters[..], [_]).then(|| vec![masters[0]; SHARDS]);
        };
        let mut shards = Vec::new();
        for shard in 0..SHARDS {
            let mut owner = None;
            for port in &masters {
                // A server without the slot answers with a redirect, which is an error here.
                let held: RedisResult<usize> = self
                    .ask(*port, &["HLEN", &format!("rd:{{{shard}}}:jobs")])
                    .await;
                owner = owner.or(held.ok().map(|_| *port));
            }
            shards.push(owner?);
        }
        Some(shards)
    }

    /// The number of jobs plus the number of entries of the intake stream. `None` if a server does
    /// not answer.
    pub(crate) async fn waiting(&self) -> Option<usize> {
        let mut waiting = 0;
        for (shard, port) in self.shards().await?.into_iter().enumerate() {
            waiting += self
                .ask::<usize>(port, &["HLEN", &format!("rd:{{{shard}}}:jobs")])
                .await
                .ok()?;
        }
        Some(waiting + self.ask_anywhere::<usize>(&["XLEN", "rd:intake"]).await?)
    }

    /// Sends a command to the masters until one of them has the key.
    pub(crate) async fn ask_anywhere<T: FromRedisValue>(
        &self,
        command_words: &[&str],
    ) -> Option<T> {
        for port in self.masters().await {
            if let Ok(answer) = self.ask(port, command_words).await {
                return Some(answer);
            }
        }
        None
    }

    /// Adds to a key, and waits until the write has the durability of the run. Fails if it may not
    /// have it.
    pub(crate) async fn add_durably(&self, command_words: &[&str]) -> anyhow::Result<()> {
        let wait: &[&str] = match self.shape {
            // With `appendfsync always` the answer comes after the write is on the disk.
            Shape::Single | Shape::Snapshot => &["PING"],
            Shape::Sentinel | Shape::Cluster => &["WAIT", "1", "1000"],
        };
        for port in self.masters().await {
            let mut connection = self.connect(port).await?;
            let added: RedisResult<redis::Value> =
                command(command_words).query_async(&mut connection).await;
            match added {
                Err(error) if error.code() == Some("MOVED") => continue,
                added => added?,
            };
            let reached: redis::Value = command(wait).query_async(&mut connection).await?;
            let reached = match reached {
                redis::Value::Array(counts) => {
                    counts.into_iter().next().unwrap_or(redis::Value::Nil)
                }
                other => other,
            };
            if reached == redis::Value::Int(0) {
                bail!("the write was not confirmed");
            }
            return Ok(());
        }
        bail!("no master has the key")
    }

    /// Copies the logs of the servers into `folder`.
    pub(crate) fn keep_logs(&self, folder: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(self.servers().folder()).context("the servers' folder is gone")? {
            let entry = entry?;
            let log = entry.path().join("server.log");
            if log.is_file() {
                let name = format!("server-{}.log", entry.file_name().to_string_lossy());
                fs::copy(&log, folder.join(name))
                    .with_context(|| format!("cannot copy {}", log.display()))?;
            }
        }
        Ok(())
    }
}

fn command(command_words: &[&str]) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    for word in command_words {
        command.arg(word);
    }
    command
}
