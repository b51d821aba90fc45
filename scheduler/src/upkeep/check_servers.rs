//! Checks the settings of the Redis servers again, because they may change while we run.

use async_trait::async_trait;
use store::error::StoreError;
use store::handle::Store;
use store::server_checks::Severity;

use super::Task;

/// The upkeep task `check_servers`. It logs each finding, and writes an event when a finding
/// appears and when it is gone.
#[derive(Debug)]
pub struct CheckServers;

#[async_trait]
impl Task for CheckServers {
    fn name(&self) -> &'static str {
        "check_servers"
    }

    async fn run_once(&self, store: &Store) -> Result<u64, StoreError> {
        let report = store.check_servers().await?;
        for finding in report.at_least(Severity::Warn) {
            if finding.severity == Severity::Refuse {
                tracing::error!(%finding, "a setting of the server breaks a promise");
            } else {
                tracing::warn!(%finding, "a setting of the server weakens a promise");
            }
        }
        store.note_findings(&report).await
    }
}
