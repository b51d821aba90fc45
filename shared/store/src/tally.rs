//! Reading tallies: what was tried at one destination on one day.

use std::collections::HashMap;

use deadpool_redis::redis::pipe;
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::tally::Tally;

use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;

const DAY_MS: i64 = 86_400_000;

impl Store {
    /// Returns the counts of attempts at one destination on the UTC day that contains `day`, by
    /// kind of attempt, in no order.
    pub async fn tally(
        &self,
        destination: &Destination,
        day: Timestamp,
    ) -> Result<Vec<(Tally, u64)>, StoreError> {
        let keys = self.keys.shard(destination.shard(self.shards()));
        let key = keys.tally(day.ms().div_euclid(DAY_MS), destination.as_str());
        let (fields,): (HashMap<Text, Text>,) =
            self.connections.pipeline(pipe().hgetall(key)).await?;
        let read = |(Text(field), Text(count)): (Text, Text)| {
            let read = field.parse().ok().zip(count.parse().ok());
            if read.is_none() {
                tracing::error!(
                    %destination,
                    field,
                    "a field of a tally cannot be read, and is left out"
                );
            }
            read
        };
        Ok(fields.into_iter().filter_map(read).collect())
    }
}
