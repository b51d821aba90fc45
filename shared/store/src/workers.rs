//! The workers of the store: those with a recent heartbeat. The list orders the workers' visits,
//! and nothing else relies on it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use deadpool_redis::redis::pipe;
use uuid::Uuid;

use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;
use crate::scripts::ms;

/// How many workers are returned at most.
const WORKERS_MAX: isize = 10_000;

/// Identifies one worker from its start to its end. After a restart it has another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(Uuid);

impl WorkerId {
    /// Returns a new id, which sorts after all that were made before.
    pub fn unique() -> Self {
        Self(Uuid::now_v7())
    }

    /// Returns its bytes, for hashing.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for WorkerId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

impl Store {
    /// Records a worker's heartbeat, and forgets workers that were silent for longer than
    /// `silent_max`. Returns the workers that are alive. It uses the server's clock, even if mail
    /// is processed by another clock, because processes live and die in real time.
    pub async fn heartbeat(
        &self,
        worker: WorkerId,
        silent_max: Duration,
    ) -> Result<Vec<WorkerId>, StoreError> {
        self.beat(&self.keys.workers(), &worker.to_string(), silent_max)
            .await?;
        Ok(self
            .workers()
            .await?
            .into_iter()
            .map(|(worker, _)| worker)
            .collect())
    }

    /// Records in the set `key` that `member` is alive, and removes members that were silent for
    /// longer than `silent_max`, by the clock of the server.
    pub(crate) async fn beat(
        &self,
        key: &str,
        member: &str,
        silent_max: Duration,
    ) -> Result<(), StoreError> {
        let ((seconds, micros),): ((i64, i64),) =
            self.connections.pipeline(pipe().cmd("TIME")).await?;
        let now = seconds.saturating_mul(1_000) + micros / 1_000;
        let silent_ms: i64 = ms(silent_max).try_into().unwrap_or(i64::MAX);
        let (silent, ahead) = (now.saturating_sub(silent_ms), now.saturating_add(silent_ms));
        self.connections
            .pipeline::<()>(
                pipe()
                    .zadd(key, member, now)
                    .ignore()
                    .zrembyscore(key, "-inf", format!("({silent}"))
                    .ignore()
                    // Members from before the clock was set back. One that is alive beats again.
                    .zrembyscore(key, format!("({ahead}"), "+inf")
                    .ignore(),
            )
            .await
    }

    /// Returns the workers with a recent heartbeat, and the server's instant of each one's last
    /// heartbeat, in ms.
    pub async fn workers(&self) -> Result<Vec<(WorkerId, i64)>, StoreError> {
        let key = self.keys.workers();
        let (found,): (Vec<(Text, f64)>,) = self
            .connections
            .pipeline(pipe().zrange_withscores(key, 0, WORKERS_MAX - 1))
            .await?;
        Ok(found
            .into_iter()
            .filter_map(|(Text(id), at)| Some((id.parse().ok()?, at as i64)))
            .collect())
    }

    /// Removes a worker that stops claiming.
    pub async fn leave(&self, worker: WorkerId) -> Result<(), StoreError> {
        self.connections
            .pipeline(
                pipe()
                    .zrem(self.keys.workers(), worker.to_string())
                    .ignore(),
            )
            .await
    }
}
