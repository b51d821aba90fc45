//! What upkeep does to the store: lifting what is over and trimming what is old. Every step is
//! bounded and idempotent.

use std::time::Duration;

use deadpool_redis::redis::pipe;
use domain::clock::Timestamp;
use domain::standing::Standing;

use crate::batch::BATCH_MAX;
use crate::error::StoreError;
use crate::handle::Store;
use crate::over_shards::SumOverShards;
use crate::scripts::{CLAIM_OCCURRENCE, CLOCK, REINSTATE, ms};

/// Deliveries are kept by week, counted from the Unix epoch.
const WEEK_MS: i64 = 7 * 86_400_000;

/// How many weeks back old weeks are deleted: as long as upkeep may have been down.
const TRIMMED_WEEKS: i64 = 60;

impl Store {
    /// Makes addresses active again whose unavailable time is over. Returns how many.
    pub async fn reinstate(&self) -> Result<u64, StoreError> {
        let mut lifted = SumOverShards::default();
        for shard in 0..self.shards() {
            lifted.add(self.reinstate_on(shard).await);
        }
        lifted.end()
    }

    async fn reinstate_on(&self, shard: u16) -> Result<u64, StoreError> {
        let mut lifted = 0;
        loop {
            let mut call = self.call(&REINSTATE, shard);
            call.arg("most", BATCH_MAX);
            let (_, of_batch): (i64, u64) = self.connections.script(&call).await?;
            lifted += of_batch;
            self.metrics().standing_changed(Standing::Active, of_batch);
            if of_batch < BATCH_MAX as u64 {
                return Ok(lifted);
            }
        }
    }

    /// Deletes journal entries older than `keep`. Returns how many.
    pub async fn trim_journal(&self, keep: Duration) -> Result<u64, StoreError> {
        // Entry ids are made by Redis's own clock, even if the events have instants of another
        // clock.
        let (seconds, _): (i64, i64) = {
            let (time,): ((i64, i64),) = self.connections.pipeline(pipe().cmd("TIME")).await?;
            time
        };
        let oldest = seconds
            .saturating_mul(1_000)
            .saturating_sub(ms(keep).try_into().unwrap_or(i64::MAX))
            .max(0);
        let mut forgotten = 0;
        // One XTRIM stops after some thousand entries, so that other calls do not wait for it.
        loop {
            let trimmed: Vec<(u64,)> = self
                .on_each_shard(|keys, commands| {
                    commands
                        .cmd("XTRIM")
                        .arg(keys.journal())
                        .arg("MINID")
                        .arg("~")
                        .arg(oldest);
                })
                .await?;
            forgotten += trimmed.iter().map(|(of_shard,)| of_shard).sum::<u64>();
            if trimmed.iter().all(|(of_shard,)| *of_shard == 0) {
                return Ok(forgotten);
            }
        }
    }

    /// Returns the time of the clock of a shard's server.
    pub async fn clock_of(&self, shard: u16) -> Result<Timestamp, StoreError> {
        Ok(Timestamp::from_ms(
            self.connections.script(&self.call(&CLOCK, shard)).await?,
        ))
    }

    /// Deletes deliveries of weeks that ended more than a week ago. Returns how many weeks, over
    /// all shards.
    pub async fn trim_delivered(&self) -> Result<u64, StoreError> {
        // Weeks were counted by the server's clock. The clock of this process may be wrong by
        // years.
        let week = self.clock_of(0).await?.ms().div_euclid(WEEK_MS);
        let trimmed: Vec<(u64,)> = self
            .on_each_shard(|keys, commands| {
                let old: Vec<String> = (week - TRIMMED_WEEKS..week - 1)
                    .map(|week| keys.delivered(week))
                    .collect();
                // UNLINK, because it frees large values in the background.
                commands.unlink(old);
            })
            .await?;
        Ok(trimmed.into_iter().map(|(of_shard,)| of_shard).sum())
    }

    /// Claims one occurrence of an upkeep task for this process. Only one of all processes gets it.
    pub async fn claim_occurrence(
        &self,
        task: &str,
        occurrence: Timestamp,
        keep: Duration,
    ) -> Result<bool, StoreError> {
        // All claims are in one shard: there are few, and each is kept for a short time only.
        let mut call = self.call(&CLAIM_OCCURRENCE, 0);
        call.arg("task", task)
            .arg("occurrence", occurrence.ms())
            .arg("keep", ms(keep).max(1));
        let (_, won): (i64, u8) = self.connections.script(&call).await?;
        Ok(won == 1)
    }
}
