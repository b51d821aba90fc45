//! Who works on the store: the workers that were heard of lately. It orders their visits, and
//! nothing else relies on it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use deadpool_redis::redis::pipe;
use uuid::Uuid;

use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;
use crate::scripts::ms;

/// How many workers are told of at most.
const WORKERS_MAX: isize = 10_000;

/// What names one worker from its start to its end; the next start has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(Uuid);

impl WorkerId {
    /// A new one, which sorts behind all that were made before.
    pub fn unique() -> Self {
        Self(Uuid::now_v7())
    }

    /// Its bytes, for hashing.
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
    /// Says that a worker is alive, and forgets those that were silent for longer than
    /// `silent_max`. Tells who is alive, by the server's clock: whatever clock the mail is told,
    /// processes live and die in real time.
    pub async fn beat(
        &self,
        worker: WorkerId,
        silent_max: Duration,
    ) -> Result<Vec<WorkerId>, StoreError> {
        let ((seconds, micros),): ((i64, i64),) =
            self.connections.pipeline(pipe().cmd("TIME")).await?;
        let now = seconds.saturating_mul(1_000) + micros / 1_000;
        let silent_ms: i64 = ms(silent_max).try_into().unwrap_or(i64::MAX);
        let (silent, ahead) = (now.saturating_sub(silent_ms), now.saturating_add(silent_ms));
        let key = self.keys.workers();
        self.connections
            .pipeline::<()>(
                pipe()
                    .zadd(&key, worker.to_string(), now)
                    .ignore()
                    .zrembyscore(&key, "-inf", format!("({silent}"))
                    .ignore()
                    // From before the clock was set back. Who lives says so again.
                    .zrembyscore(&key, format!("({ahead}"), "+inf")
                    .ignore(),
            )
            .await?;
        Ok(self
            .workers()
            .await?
            .into_iter()
            .map(|(worker, _)| worker)
            .collect())
    }

    /// The workers that were heard of lately, and the server's instant, in ms, at which each was
    /// heard of last.
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

    /// Says that a worker stops claiming.
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
