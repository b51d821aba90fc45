//! Removes the records of old deliveries. A record is needed only to recognise a late bounce, which
//! happened before the delivery.

use async_trait::async_trait;
use store::error::StoreError;
use store::handle::Store;

use super::Task;

/// The task. A delivery is remembered for at least a week. A bounce that is reported later counts
/// as new.
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
