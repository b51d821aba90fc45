//! Waiting, with a deadline: what does not come fails the test that waits for it.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

/// How long a condition may take to come true, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer. `what` completes the sentence "waited in vain for …".
///
/// # Panics
/// Where there is none in time.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Waits for what comes by itself. `what` completes the sentence "waited in vain for …".
///
/// # Panics
/// Where it does not come in time.
pub async fn in_time<T>(what: &str, coming: impl Future<Output = T>) -> T {
    timeout(PATIENCE, coming)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
