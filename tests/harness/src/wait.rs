//! Waits for conditions with a deadline. If a condition does not come true, the test fails.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

/// How long a condition may take to come true. It is long, for slow and busy machines.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Calls `ask` until it returns a value, and returns that. `what` completes the sentence "timed
/// out waiting for …".
///
/// # Panics
/// If there is no value in time.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Waits for a future. `what` completes the sentence "timed out waiting for …".
///
/// # Panics
/// If the future does not end in time.
pub async fn in_time<T>(what: &str, coming: impl Future<Output = T>) -> T {
    timeout(TIMEOUT, coming)
        .await
        .unwrap_or_else(|_| panic!("timed out waiting for {what}"))
}
