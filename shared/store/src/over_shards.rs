//! What is done on one shard after the other, summed up.

use crate::error::StoreError;

/// The sum of what is done on one shard after the other. A shard that fails does not keep the
/// others from their turn.
#[derive(Debug, Default)]
pub struct OverShards {
    sum: u64,
    first_error: Option<StoreError>,
}

impl OverShards {
    /// Adds what became of one shard.
    pub fn add(&mut self, outcome: Result<u64, StoreError>) {
        match outcome {
            Ok(count) => self.sum += count,
            Err(err) => {
                self.first_error.get_or_insert(err);
            }
        }
    }

    /// The sum of all.
    ///
    /// # Errors
    /// The first of them.
    pub fn end(self) -> Result<u64, StoreError> {
        self.first_error.map_or(Ok(self.sum), Err)
    }
}
