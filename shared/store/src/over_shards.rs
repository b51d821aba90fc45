//! Adds up the results of a task that runs on every shard.

use crate::error::StoreError;

/// The sum of the results of a task that runs on one shard after the other. An error on one shard
/// is kept until the end, so that the task still runs on the other shards.
#[derive(Debug, Default)]
pub struct SumOverShards {
    sum: u64,
    first_error: Option<StoreError>,
}

impl SumOverShards {
    /// Adds the result of one shard.
    pub fn add(&mut self, outcome: Result<u64, StoreError>) {
        match outcome {
            Ok(count) => self.sum += count,
            Err(err) => {
                self.first_error.get_or_insert(err);
            }
        }
    }

    /// Returns the sum over all shards.
    ///
    /// # Errors
    /// The first error, if the task failed on a shard.
    pub fn end(self) -> Result<u64, StoreError> {
        self.first_error.map_or(Ok(self.sum), Err)
    }
}
