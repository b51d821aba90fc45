//! The faults of the servers.

use std::time::Duration;

use anyhow::{Context, bail};
use deadpool_redis::redis::{self, RedisResult};
use tokio::time::{Instant, sleep};

use super::{Running, Store};
use crate::options::Shape;

/// How long servers may take after a replacement until each master has its replica again.
const WHOLE_MAX: Duration = Duration::from_secs(40);

/// How long a failover may take after the servers have accepted the command.
const FAILOVER_MAX: Duration = Duration::from_secs(10);

/// How long a snapshot may take.
const SNAPSHOT_MAX: Duration = Duration::from_secs(10);

impl Store {
    /// Whether the loss of any single server would lose no confirmed write: each master has an
    /// up-to-date replica.
    pub(crate) async fn is_covered(&self) -> bool {
        let masters = self.masters().await;
        let wanted = if self.shape == Shape::Cluster { 3 } else { 1 };
        if masters.len() != wanted {
            return false;
        }
        if self.shape.has_links() {
            return true;
        }
        for port in masters {
            let info: RedisResult<String> = self.ask(port, &["INFO", "replication"]).await;
            if !info.is_ok_and(|info| info.contains("state=online")) {
                return false;
            }
        }
        self.shards().await.is_some()
    }

    /// Waits until each master has an up-to-date replica again. Returns whether that happened in
    /// time.
    pub(crate) async fn until_covered(&self) -> bool {
        let deadline = Instant::now() + WHOLE_MAX;
        while Instant::now() < deadline {
            if self.is_covered().await {
                return true;
            }
            sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// One of the masters. `target` decides which.
    pub(crate) async fn some_master(&self, target: usize) -> anyhow::Result<u16> {
        let masters = self.masters().await;
        let count = masters.len();
        masters
            .get(target % count.max(1))
            .copied()
            .context("no server is a master")
    }

    /// Kills the server on `port` with SIGKILL.
    pub(crate) fn kill(&self, port: u16) {
        self.servers().kill(port);
    }

    /// Restarts the server on `port`, and waits until it answers. The incomplete end of its
    /// append-only file, cut off by the kill, is removed first, as docs/guides/deployment.md
    /// describes.
    pub(crate) async fn restart(&self, port: u16) -> anyhow::Result<()> {
        self.servers().mend_append_only_file(port);
        self.servers().restart(port);
        let deadline = Instant::now() + WHOLE_MAX;
        while self.ask::<String>(port, &["PING"]).await.is_err() {
            if Instant::now() > deadline {
                bail!("the server on port {port} does not answer after its restart");
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Suspends the server on `port` with SIGSTOP, or lets it continue.
    pub(crate) fn signal(&self, port: u16, signal: &str) {
        self.servers().signal(port, signal);
    }

    /// Makes the server on `port` refuse writes because its memory is full, or accept them again.
    pub(crate) async fn set_full(&self, port: u16, is_full: bool) -> RedisResult<()> {
        let limit = if is_full { "1mb" } else { "0" };
        self.ask::<()>(port, &["CONFIG", "SET", "maxmemory", limit])
            .await
    }

    /// Makes a server forget all scripts.
    pub(crate) async fn flush_scripts(&self, port: u16) -> RedisResult<()> {
        self.ask::<()>(port, &["SCRIPT", "FLUSH"]).await
    }

    /// Makes a replica the master, as an operator would.
    pub(crate) async fn fail_over(&self, target: usize) -> anyhow::Result<()> {
        let before = self.masters().await;
        self.ask_for_failover(target).await?;
        // The failover is carried out after the answer.
        let deadline = Instant::now() + FAILOVER_MAX;
        while self.masters().await == before && Instant::now() < deadline {
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn ask_for_failover(&self, target: usize) -> anyhow::Result<()> {
        match &self.servers {
            Running::One(..) => bail!("a single server has no replica"),
            Running::Sentinel(sentinel) => {
                let port = sentinel.sentinels[target % sentinel.sentinels.len()].to_string();
                let options = [
                    "-p",
                    &port,
                    "--no-auth-warning",
                    "-a",
                    harness::servers::SENTINEL_PASSWORD,
                ];
                let answer = sentinel
                    .servers
                    .cli_with(&options, &["SENTINEL", "FAILOVER", "mail"]);
                answer.context("the sentinel refuses a failover")?;
            }
            Running::Cluster(cluster) => {
                let masters = self.masters().await;
                let replicas: Vec<u16> = cluster
                    .ports
                    .iter()
                    .copied()
                    .filter(|port| !masters.contains(port))
                    .collect();
                let replica = replicas
                    .get(target % replicas.len().max(1))
                    .context("no server is a replica")?;
                self.ask::<()>(*replica, &["CLUSTER", "FAILOVER"]).await?;
            }
        }
        Ok(())
    }

    /// Makes the server write a snapshot, and waits for it. Returns whether it was written.
    pub(crate) async fn snapshot(&self, port: u16) -> bool {
        if self.ask::<redis::Value>(port, &["BGSAVE"]).await.is_err() {
            return false;
        }
        let deadline = Instant::now() + SNAPSHOT_MAX;
        while Instant::now() < deadline {
            let info: RedisResult<String> = self.ask(port, &["INFO", "persistence"]).await;
            match info {
                Ok(info) if info.contains("rdb_bgsave_in_progress:0") => {
                    return info.contains("rdb_last_bgsave_status:ok");
                }
                Ok(_) => sleep(Duration::from_millis(20)).await,
                Err(_) => return false,
            }
        }
        false
    }
}
