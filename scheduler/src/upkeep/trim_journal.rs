//! Removes events that are older than the configured age from the journal.

use std::time::Duration;

use async_trait::async_trait;
use store::error::StoreError;
use store::handle::Store;

use super::Task;

/// The upkeep task `trim_journal`.
#[derive(Debug)]
pub struct TrimJournal {
    /// How long events are kept.
    pub keep: Duration,
}

#[async_trait]
impl Task for TrimJournal {
    fn name(&self) -> &'static str {
        "trim_journal"
    }

    async fn run_once(&self, store: &Store) -> Result<u64, StoreError> {
        store.trim_journal(self.keep).await
    }
}
