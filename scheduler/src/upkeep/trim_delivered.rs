//! Forgets deliveries that no bounce can be older than: their use is to recognise bounces that come
//! late.

use async_trait::async_trait;
use store::error::StoreError;
use store::handle::Store;

use super::Task;

/// The task. A delivery is remembered for a week at least; a bounce that is told later counts as
/// news.
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
