//! Quarantine: jobs that lapsed too often in a row and wait for an operator, because they may be what crashes workers.

use deadpool_redis::redis::pipe;

use super::scripts::PUT_BACK;
use super::{BATCH_MAX, Store, StoreError};
use crate::clock::Timestamp;
use crate::job::JobId;

/// A job in quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The job.
    pub job: JobId,
    /// Since when.
    pub since: Timestamp,
}

impl Store {
    /// The jobs of one shard that are in quarantine, those first that have been there longest: at most `most` (and never
    /// more than [`BATCH_MAX`]), after the first `skip`.
    pub async fn quarantined(&self, shard: u16, skip: usize, most: usize) -> Result<Vec<Quarantined>, StoreError> {
        let place = |n: usize| isize::try_from(n).unwrap_or(isize::MAX);
        let last = place(skip.saturating_add(most.min(BATCH_MAX))) - 1;
        if last < place(skip) {
            return Ok(Vec::new());
        }
        let key = self.keys.shard(shard).quarantine();
        let (found,): (Vec<(String, f64)>,) =
            self.connections.pipeline(pipe().zrange_withscores(key, place(skip), last)).await?;
        found
            .into_iter()
            .map(|(id, since)| {
                let job = JobId::from_key(&id).map_err(|why| StoreError::Refused(why.to_string()))?;
                Ok(Quarantined { job, since: Timestamp::from_ms(since as i64) })
            })
            .collect()
    }

    /// Takes a job out of quarantine: it is due now, and its lapses are forgotten. Whether it was there.
    pub async fn put_back(&self, id: &JobId) -> Result<bool, StoreError> {
        let destination = self.destinations(&[id.recipient.domain()]).await?.remove(0);
        let mut call = self.call(&PUT_BACK, destination.shard(self.shards()));
        call.arg(id.key()).arg(destination.as_str());
        let (_, was_there): (i64, u8) = self.connections.script(&call).await?;
        Ok(was_there == 1)
    }
}
