//! Waiting for an instant that may not be known yet.

use std::future::pending;

use tokio::time::{Instant, sleep_until};

/// Waits until then; for ever where there is no such instant.
pub(crate) async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
