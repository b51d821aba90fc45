//! Forgets deliveries that no bounce can be older than: their use is to recognise bounces that come late.

use std::time::Duration;

use async_trait::async_trait;
use shared::store::{Store, StoreError};

use super::Task;

/// How long a delivery is remembered: a bounce that is told later than this counts as news.
const KEEP: Duration = Duration::from_secs(7 * 86_400);

/// The task.
#[derive(Debug)]
pub struct TrimDelivered;

#[async_trait]
impl Task for TrimDelivered {
    fn name(&self) -> &'static str {
        "trim_delivered"
    }

    async fn run_once(&self, store: &Store) -> Result<u64, StoreError> {
        store.trim_delivered(store.clock().now(), KEEP).await
    }
}
