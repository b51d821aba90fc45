//! What is known of addresses: their standing, and their job where they have one.

use deadpool_redis::redis::pipe;

use super::{BATCH_MAX, Store, StoreError};
use crate::clock::Timestamp;
use crate::job::{Job, JobId};
use crate::standing::StandingRecord;

/// What is known of one address.
#[derive(Debug)]
pub struct AddressReport {
    /// Its standing; none means active, and never heard of otherwise.
    pub standing: Option<StandingRecord>,
    /// Its job.
    pub job: Option<JobReport>,
}

/// What is known of one job.
#[derive(Debug)]
pub struct JobReport {
    /// The job.
    pub job: Job,
    /// When its next attempt is due; none while one is under way.
    pub due: Option<Timestamp>,
    /// Until when it is leased; none while it waits.
    pub leased_until: Option<Timestamp>,
}

impl Store {
    /// The standings of addresses, in the order given; none means active.
    pub async fn standings(&self, ids: &[JobId]) -> Result<Vec<Option<StandingRecord>>, StoreError> {
        let mut by_shard: Vec<Vec<usize>> = vec![Vec::new(); usize::from(self.shards())];
        let domains: Vec<&str> = ids.iter().map(|id| id.recipient.domain()).collect();
        for (n, destination) in self.destinations(&domains).await?.iter().enumerate() {
            by_shard[usize::from(destination.shard(self.shards()))].push(n);
        }
        let mut commands = pipe();
        let mut batches = Vec::new();
        for (shard, places) in (0..self.shards()).zip(&by_shard) {
            for places in places.chunks(BATCH_MAX) {
                let fields: Vec<String> = places.iter().map(|n| ids[*n].key()).collect();
                commands.cmd("HMGET").arg(self.keys.shard(shard).standing()).arg(fields);
                batches.push(places);
            }
        }
        let mut standings = vec![None; ids.len()];
        if batches.is_empty() {
            return Ok(standings);
        }
        let found: Vec<Vec<Option<String>>> = self.connections.pipeline(&commands).await?;
        for (place, json) in batches.into_iter().flatten().zip(found.into_iter().flatten()) {
            standings[*place] = json.as_deref().map(read_standing).transpose()?;
        }
        Ok(standings)
    }

    /// The ids of jobs that are leased now, at most `most` of each shard.
    pub async fn leased(&self, most: usize) -> Result<Vec<String>, StoreError> {
        let mut commands = pipe();
        for shard in 0..self.shards() {
            commands.cmd("ZRANGE").arg(self.keys.shard(shard).leases()).arg(0).arg(most.saturating_sub(1));
        }
        let ids: Vec<Vec<String>> = self.connections.pipeline(&commands).await?;
        Ok(ids.into_iter().flatten().collect())
    }

    /// All that is known of one address, as of one instant.
    pub async fn address(&self, id: &JobId) -> Result<AddressReport, StoreError> {
        let destination = self.destinations(&[id.recipient.domain()]).await?.remove(0);
        let keys = self.keys.shard(destination.shard(self.shards()));
        let field = id.key();
        let (standing, record, due, leased): (Option<String>, Option<String>, Option<f64>, Option<f64>) = self
            .connections
            .pipeline(
                pipe()
                    .atomic()
                    .hget(keys.standing(), &field)
                    .hget(keys.jobs(), &field)
                    .zscore(keys.due(destination.as_str()), &field)
                    .zscore(keys.leases(), &field),
            )
            .await?;
        let instant = |ms: f64| Timestamp::from_ms(ms as i64);
        let job = record
            .map(|record| {
                let job = Job::from_record(id.clone(), &record).map_err(|why| StoreError::Refused(why.to_string()))?;
                Ok(JobReport { job, due: due.map(instant), leased_until: leased.map(instant) })
            })
            .transpose()?;
        Ok(AddressReport { standing: standing.as_deref().map(read_standing).transpose()?, job })
    }
}

fn read_standing(json: &str) -> Result<StandingRecord, StoreError> {
    serde_json::from_str(json).map_err(|why| StoreError::Refused(format!("a standing is not understood: {why}")))
}
