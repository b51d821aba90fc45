//! Makes addresses active again when the time for which they are unavailable has passed.

use async_trait::async_trait;
use store::error::StoreError;
use store::handle::Store;

use super::Task;

/// The upkeep task `reinstate`.
#[derive(Debug)]
pub struct Reinstate;

#[async_trait]
impl Task for Reinstate {
    fn name(&self) -> &'static str {
        "reinstate"
    }

    async fn run_once(&self, store: &Store) -> Result<u64, StoreError> {
        store.reinstate().await
    }
}
