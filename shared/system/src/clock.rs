//! The clock of this machine, and a faster clock for the demo.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use domain::clock::{Clock, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// The clock that also counts while the machine is suspended. On macOS that is the monotonic clock.
#[cfg(any(target_os = "linux", target_os = "android"))]
const RUNNING: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const RUNNING: ClockId = ClockId::CLOCK_MONOTONIC;

/// The machine's clock. The store's scripts read the clock of Redis instead.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_ms(since_epoch.as_millis().try_into().unwrap_or(i64::MAX))
    }

    fn instant_for_scripts(&self) -> Option<Timestamp> {
        None
    }

    fn monotonic(&self) -> Duration {
        // `Instant` does not count while the machine is suspended.
        clock_gettime(RUNNING)
            .expect("every supported system has this clock")
            .into()
    }

    fn real_duration(&self, span: Duration) -> Duration {
        span
    }
}

/// The demo's clock: it runs `speed` times as fast as the machine's, from a chosen instant. It does
/// not advance until it is started.
#[derive(Debug)]
pub struct FastClock {
    epoch: Timestamp,
    started: OnceLock<Instant>,
    speed: u32,
}

impl FastClock {
    /// A clock that shows `epoch` until it is started. A speed of 0 counts as 1.
    pub fn new(epoch: Timestamp, speed: u32) -> Self {
        Self {
            epoch,
            started: OnceLock::new(),
            speed: speed.max(1),
        }
    }

    /// Starts the clock. A clock that runs already is not changed.
    pub fn start(&self) {
        self.started.get_or_init(Instant::now);
    }
}

impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        let elapsed = self.started.get().map(Instant::elapsed).unwrap_or_default();
        self.epoch.plus(elapsed * self.speed)
    }

    fn instant_for_scripts(&self) -> Option<Timestamp> {
        Some(self.now())
    }

    fn monotonic(&self) -> Duration {
        self.started.get().map(Instant::elapsed).unwrap_or_default() * self.speed
    }

    fn real_duration(&self, span: Duration) -> Duration {
        span / self.speed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_clock_never_goes_back() {
        let before = SystemClock.monotonic();
        assert!(SystemClock.monotonic() >= before);
    }
}
