//! The wall clock of a server. It steps by an hour while the server runs.

use std::sync::atomic::{AtomicI64, Ordering};

use harness::faketime::{self, FakeClock};
use harness::servers::{Servers, programs};

use crate::record::{Ms, Skew, now_ms};

/// How far a step goes.
const STEP_MS: Ms = 3_600_000;

/// A clock that can be set.
pub(crate) struct ServerClock {
    clock: FakeClock,
    ahead: AtomicI64,
}

impl ServerClock {
    /// A clock that shows the current time. The error is the reason why there is no clock.
    pub(crate) fn new() -> Result<Self, &'static str> {
        if !faketime::is_installed() {
            return Err("libfaketime is not installed; `scripts/tools test` installs it");
        }
        if programs()
            .first()
            .is_none_or(|program| program != "redis-server")
        {
            return Err("only Redis starts with libfaketime");
        }
        Ok(Self {
            clock: FakeClock::new("+0"),
            ahead: AtomicI64::new(0),
        })
    }

    pub(super) fn servers(&self) -> Servers {
        Servers::with_clock(&self.clock)
    }

    /// Moves the clock ahead by an hour, or back by an hour. Returns how far ahead of the real time
    /// it is now, and since when.
    pub(crate) fn step(&self, is_ahead: bool) -> Skew {
        let step = if is_ahead { STEP_MS } else { -STEP_MS };
        let ahead = self.ahead.load(Ordering::Relaxed) + step;
        self.ahead.store(ahead, Ordering::Relaxed);
        let at = now_ms();
        let seconds = ahead / 1_000;
        self.clock.set(&format!("{seconds:+}"));
        Skew { at, ahead }
    }
}
