//! Addresses that workers may still be sending to, although their jobs have ended during the lease.

use std::collections::HashSet;

use domain::destination::Destination;
use domain::job::JobId;
use futures::future::try_join_all;

use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;
use crate::scripts::UNDER_WAY;

impl Store {
    /// Returns which of these addresses, by their job's id and destination, a worker may still be
    /// sending to although its lease is void. This lasts until the worker settles the job or gives
    /// it back, or until its lease runs out. Changes nothing.
    pub async fn under_way(
        &self,
        jobs: &[(&JobId, &Destination)],
    ) -> Result<HashSet<String>, StoreError> {
        let batches = self.by_shard(jobs, |(_, destination)| destination.shard(self.shards()));
        let asked = batches.into_iter().map(async |(shard, jobs)| {
            let mut call = self.call(&UNDER_WAY, shard);
            for (job, _) in jobs {
                call.arg("id", job.key());
            }
            let (_, found): (i64, Vec<Text>) = self.connections.script(&call).await?;
            Ok::<_, StoreError>(found.into_iter().map(|Text(id)| id))
        });
        Ok(try_join_all(asked).await?.into_iter().flatten().collect())
    }
}
