//! Jobs that only wait because the peer of their route could not be reached. When it can be reached
//! again, they are due at once.

use crate::batch::BATCH_MAX;
use crate::error::StoreError;
use crate::handle::Store;
use crate::over_shards::SumOverShards;
use crate::scripts::RELEASE_ROUTE;

impl Store {
    /// Makes all jobs due now that only wait until the peer of this route can be reached again.
    /// Returns how many. Atomic for some hundred jobs at a time; repeating it changes nothing.
    ///
    /// # Errors
    /// If a shard does not answer. The jobs of the other shards are due all the same.
    pub async fn release_route(&self, route: &str) -> Result<u64, StoreError> {
        let mut released = SumOverShards::default();
        for shard in 0..self.shards() {
            released.add(self.release_route_on(shard, route).await);
        }
        released.end()
    }

    async fn release_route_on(&self, shard: u16, route: &str) -> Result<u64, StoreError> {
        let mut released = 0;
        loop {
            let mut call = self.call(&RELEASE_ROUTE, shard);
            call.arg("route", route).arg("most", BATCH_MAX);
            let (_, seen, of_batch): (i64, usize, u64) = self.connections.script(&call).await?;
            released += of_batch;
            if seen < BATCH_MAX {
                return Ok(released);
            }
        }
    }
}
