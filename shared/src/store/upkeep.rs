//! What upkeep does to the store: lifting what is over and trimming what is old. Every step is bounded and idempotent.

use std::time::Duration;

use deadpool_redis::redis::pipe;

use super::scripts::{REINSTATE, ms};
use super::{BATCH_MAX, Store, StoreError};
use crate::clock::Timestamp;

/// How many deliveries one command forgets; more only where they fell in one millisecond.
const TRIM_PORTION: isize = 5_000;

impl Store {
    /// Makes active again the addresses whose unavailable time is over. Tells how many.
    pub async fn reinstate(&self) -> Result<u64, StoreError> {
        let mut lifted = 0;
        for shard in 0..self.shards() {
            loop {
                let mut call = self.call(&REINSTATE, shard);
                call.arg(BATCH_MAX);
                let (_, of_batch): (i64, u64) = self.connections.script(&call).await?;
                lifted += of_batch;
                if of_batch < BATCH_MAX as u64 {
                    break;
                }
            }
        }
        Ok(lifted)
    }

    /// Forgets journal entries older than `keep`. Tells how many.
    pub async fn trim_journal(&self, keep: Duration) -> Result<u64, StoreError> {
        let mut commands = pipe();
        // Entry ids are made of Redis's own clock, whatever clock the events were told.
        let (seconds, _): (i64, i64) = {
            let (time,): ((i64, i64),) = self.connections.pipeline(pipe().cmd("TIME")).await?;
            time
        };
        let oldest = seconds.saturating_mul(1_000).saturating_sub(ms(keep).try_into().unwrap_or(i64::MAX)).max(0);
        for shard in 0..self.shards() {
            commands.cmd("XTRIM").arg(self.keys.shard(shard).journal()).arg("MINID").arg("~").arg(oldest);
        }
        let mut forgotten = 0;
        // One XTRIM stops after some thousand entries, so that it does not keep others waiting.
        loop {
            let trimmed: Vec<u64> = self.connections.pipeline(&commands).await?;
            forgotten += trimmed.iter().sum::<u64>();
            if trimmed.iter().all(|of_shard| *of_shard == 0) {
                return Ok(forgotten);
            }
        }
    }

    /// Forgets deliveries older than `keep`, in portions, so that it does not keep others waiting. Tells how many.
    pub async fn trim_delivered(&self, now: Timestamp, keep: Duration) -> Result<u64, StoreError> {
        let oldest = now.ms().saturating_sub(ms(keep).try_into().unwrap_or(i64::MAX));
        let mut forgotten = 0;
        for shard in 0..self.shards() {
            let delivered = self.keys.shard(shard).delivered();
            loop {
                // The instant of the last of a portion bounds it; where there is none, what is left is less than one.
                let (last_of_portion,): (Vec<(String, f64)>,) = self
                    .connections
                    .pipeline(pipe().zrangebyscore_limit_withscores(delivered, "-inf", oldest, TRIM_PORTION, 1))
                    .await?;
                let until = last_of_portion.first().map_or(oldest, |(_, at)| *at as i64);
                let (of_portion,): (u64,) =
                    self.connections.pipeline(pipe().zrembyscore(delivered, "-inf", until)).await?;
                forgotten += of_portion;
                if last_of_portion.is_empty() {
                    break;
                }
            }
        }
        Ok(forgotten)
    }

    /// Claims one occurrence of an upkeep task for this process. Only one of all processes gets it.
    pub async fn claim_occurrence(
        &self,
        task: &str,
        occurrence: Timestamp,
        keep: Duration,
    ) -> Result<bool, StoreError> {
        let key = self.keys.upkeep(task, occurrence.ms());
        let (won,): (Option<String>,) = self
            .connections
            .pipeline(pipe().cmd("SET").arg(key).arg(1).arg("NX").arg("PX").arg(ms(keep).max(1)))
            .await?;
        Ok(won.is_some())
    }
}
