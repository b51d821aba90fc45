//! The clocks of this machine: the real one, and one that runs faster, for the demo.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use domain::clock::{Clock, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// The clock that goes on while the machine is suspended. On macOS the monotonic clock does.
#[cfg(any(target_os = "linux", target_os = "android"))]
const RUNNING: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const RUNNING: ClockId = ClockId::CLOCK_MONOTONIC;

/// The machine's clock; the store's scripts read Redis's own.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_ms(since_epoch.as_millis().try_into().unwrap_or(i64::MAX))
    }

    fn passed_in(&self) -> Option<Timestamp> {
        None
    }

    fn running(&self) -> Duration {
        // `Instant` stands still while the machine is suspended.
        clock_gettime(RUNNING)
            .expect("every system that this is built for has the clock")
            .into()
    }

    fn real(&self, span: Duration) -> Duration {
        span
    }
}

/// A clock that runs `speed` times as fast as the machine's, from an instant of choice: the demo's.
/// It stands still until it is started.
#[derive(Debug)]
pub struct FastClock {
    epoch: Timestamp,
    started: OnceLock<Instant>,
    speed: u32,
}

impl FastClock {
    /// A clock that shows `epoch` until it is started; a speed of 0 counts as 1.
    pub fn new(epoch: Timestamp, speed: u32) -> Self {
        Self {
            epoch,
            started: OnceLock::new(),
            speed: speed.max(1),
        }
    }

    /// Lets it run. A clock that runs already goes on as it does.
    pub fn start(&self) {
        self.started.get_or_init(Instant::now);
    }
}

impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        let elapsed = self.started.get().map(Instant::elapsed).unwrap_or_default();
        self.epoch.plus(elapsed * self.speed)
    }

    fn passed_in(&self) -> Option<Timestamp> {
        Some(self.now())
    }

    fn running(&self) -> Duration {
        self.started.get().map(Instant::elapsed).unwrap_or_default() * self.speed
    }

    fn real(&self, span: Duration) -> Duration {
        span / self.speed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_that_runs_never_goes_back() {
        let before = SystemClock.running();
        assert!(SystemClock.running() >= before);
    }
}
