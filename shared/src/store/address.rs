//! What is known of addresses: their standing, and their job where they have one.

use deadpool_redis::redis::{Pipeline, pipe};

use super::{BATCH_MAX, Store, StoreError};
use crate::clock::Timestamp;
use crate::job::{Job, JobId};
use crate::placement::Destination;
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
        for (n, id) in ids.iter().enumerate() {
            by_shard[usize::from(Destination::of(&id.recipient).shard(self.shards()))].push(n);
        }
        let asked: Vec<(u16, &Vec<usize>)> =
            (0..self.shards()).zip(&by_shard).filter(|(_, places)| !places.is_empty()).collect();
        let pipelines: Vec<Pipeline> =
            asked.iter().map(|(shard, places)| self.ask_standings(*shard, places, ids)).collect();
        let found: Vec<Vec<Vec<Option<String>>>> = self.connections.pipelines(&pipelines).await?;
        let mut standings = vec![None; ids.len()];
        for ((_, places), found) in asked.into_iter().zip(found) {
            for (place, json) in places.iter().zip(found.into_iter().flatten()) {
                standings[*place] = json.as_deref().map(read_standing).transpose()?;
            }
        }
        Ok(standings)
    }

    fn ask_standings(&self, shard: u16, places: &[usize], ids: &[JobId]) -> Pipeline {
        let mut commands = pipe();
        for places in places.chunks(BATCH_MAX) {
            let fields: Vec<String> = places.iter().map(|n| ids[*n].key()).collect();
            commands.cmd("HMGET").arg(self.keys.shard(shard).standing()).arg(fields);
        }
        commands
    }

    /// The ids of jobs that are leased now, at most `most` of each shard.
    pub async fn leased(&self, most: usize) -> Result<Vec<String>, StoreError> {
        let ids: Vec<(Vec<String>,)> = self
            .on_each_shard(|keys, commands| {
                commands.cmd("ZRANGE").arg(keys.leases()).arg(0).arg(most.saturating_sub(1));
            })
            .await?;
        Ok(ids.into_iter().flat_map(|(ids,)| ids).collect())
    }

    /// All that is known of one address, as of one instant.
    pub async fn address(&self, id: &JobId) -> Result<AddressReport, StoreError> {
        let destination = Destination::of(&id.recipient);
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
