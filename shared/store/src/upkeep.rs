//! What upkeep does to the store: lifting what is over and trimming what is old. Every step is
//! bounded and idempotent.

use std::time::Duration;

use deadpool_redis::redis::pipe;
use domain::clock::Timestamp;

use crate::batch::BATCH_MAX;
use crate::error::StoreError;
use crate::handle::Store;
use crate::over_shards::OverShards;
use crate::scripts::{CLAIM_OCCURRENCE, CLOCK, REINSTATE, ms};

/// Deliveries are kept by week, counted from the Unix epoch.
const WEEK_MS: i64 = 7 * 86_400_000;

/// How far back weeks are forgotten: as far as upkeep may have stood still.
const TRIMMED_WEEKS: i64 = 60;

impl Store {
    /// Makes active again the addresses whose unavailable time is over. Tells how many.
    pub async fn reinstate(&self) -> Result<u64, StoreError> {
        let mut lifted = OverShards::default();
        for shard in 0..self.shards() {
            lifted.add(self.reinstate_on(shard).await);
        }
        lifted.end()
    }

    async fn reinstate_on(&self, shard: u16) -> Result<u64, StoreError> {
        let mut lifted = 0;
        loop {
            let mut call = self.call(&REINSTATE, shard);
            call.arg(BATCH_MAX);
            let (_, of_batch): (i64, u64) = self.connections.script(&call).await?;
            lifted += of_batch;
            if of_batch < BATCH_MAX as u64 {
                return Ok(lifted);
            }
        }
    }

    /// Forgets journal entries older than `keep`. Tells how many.
    pub async fn trim_journal(&self, keep: Duration) -> Result<u64, StoreError> {
        // Entry ids are made of Redis's own clock, whatever clock the events were told.
        let (seconds, _): (i64, i64) = {
            let (time,): ((i64, i64),) = self.connections.pipeline(pipe().cmd("TIME")).await?;
            time
        };
        let oldest = seconds
            .saturating_mul(1_000)
            .saturating_sub(ms(keep).try_into().unwrap_or(i64::MAX))
            .max(0);
        let mut forgotten = 0;
        // One XTRIM stops after some thousand entries, so that it does not keep others waiting.
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

    /// The instant that the clock of a shard's server shows.
    pub async fn clock_of(&self, shard: u16) -> Result<Timestamp, StoreError> {
        Ok(Timestamp::from_ms(
            self.connections.script(&self.call(&CLOCK, shard)).await?,
        ))
    }

    /// Forgets deliveries of weeks that ended more than a week ago. Tells how many weeks, over all
    /// shards.
    pub async fn trim_delivered(&self) -> Result<u64, StoreError> {
        // By the clock that the weeks were counted by: a process's own may be wrong by years.
        let week = self.clock_of(0).await?.ms().div_euclid(WEEK_MS);
        let trimmed: Vec<(u64,)> = self
            .on_each_shard(|keys, commands| {
                let old: Vec<String> = (week - TRIMMED_WEEKS..week - 1)
                    .map(|week| keys.delivered(week))
                    .collect();
                // UNLINK, because what is large is freed beside Redis's own work.
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
        // All claims are in one shard: there are few, and only for as long as they are kept.
        let mut call = self.call(&CLAIM_OCCURRENCE, 0);
        call.arg(task).arg(occurrence.ms()).arg(ms(keep).max(1));
        let (_, won): (i64, u8) = self.connections.script(&call).await?;
        Ok(won == 1)
    }
}
