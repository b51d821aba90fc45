//! Removes the records of old deliveries. They are needed only to recognise late bounces: a bounce
//! that happened before the last delivery to its address, but is reported after it.

use async_trait::async_trait;
use store::error::StoreError;
use store::handle::Store;

use super::Task;

/// The upkeep task `trim_delivered`. A delivery is remembered for at least a week. A late bounce
/// that is reported after that counts as new.
#[derive(Debug)]
pub struct TrimDelivered;

#[async_trait]
impl Task for TrimDelivered {
    fn name(&self) -> &'static str {
        "trim_delivered"
    }

    async fn run_once(&self, store: &Store) -> Result<u64, StoreError> {
        store.trim_delivered().await
    }
}
