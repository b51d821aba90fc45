//! Waits for an instant that may not be known yet.

use std::future::pending;

use tokio::time::{Instant, sleep_until};

/// Waits until the instant, or for ever if there is none.
pub(crate) async fn wait_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
