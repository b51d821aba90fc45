//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

use tokio::time::sleep;

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
