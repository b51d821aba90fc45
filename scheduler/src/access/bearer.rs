//! The bearer of one token: what it may do, how long, and at which rate. Knows no HTTP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use domain::clock::Timestamp;
use signing::api_token::Grant;

/// What the bearer of one token may do, and at which rate.
#[derive(Debug)]
pub(super) struct Bearer {
    pub(super) grant: Grant,
    bucket: Mutex<Bucket>,
    is_withdrawn: AtomicBool,
}

/// The requests that a token has saved up, and when they were counted.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    saved: f64,
    /// By [`domain::clock::Clock::monotonic`], because requests must be saved up even if the wall
    /// clock is set back.
    at: Duration,
}

impl Bearer {
    /// The bearer of a token with this grant. It may send the requests of one second at once.
    pub(super) fn new(grant: Grant, rate: Option<f64>, now: Duration) -> Self {
        let saved = burst(rate.unwrap_or_default());
        Self {
            grant,
            bucket: Mutex::new(Bucket { saved, at: now }),
            is_withdrawn: AtomicBool::new(false),
        }
    }

    /// Spends one of the requests that are saved up. Fails if there is none, with the time to wait
    /// for the next.
    pub(super) fn spend_one(&self, rate: f64, now: Duration) -> Result<(), Duration> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let saved =
            (bucket.saved + now.saturating_sub(bucket.at).as_secs_f64() * rate).min(burst(rate));
        if saved < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - saved) / rate));
        }
        *bucket = Bucket {
            saved: saved - 1.0,
            at: now,
        };
        Ok(())
    }

    /// Records that the grant is not in force any more.
    pub(super) fn withdraw(&self) {
        self.is_withdrawn.store(true, Ordering::Relaxed);
    }

    /// Whether the token still works: its grant is in force, and has not expired.
    pub(super) fn is_valid(&self, now: Timestamp) -> bool {
        !self.is_withdrawn.load(Ordering::Relaxed) && !self.grant.is_expired(now)
    }
}

/// Returns how many requests may be saved up: those of one second, but at least one.
fn burst(rate: f64) -> f64 {
    rate.max(1.0)
}
