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
    /// A clock that shows the current time. The error is the reason why there is none.
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
        Servers::by_clock(&self.clock)
    }

    /// Sets the clock an hour ahead of its time, or back. Returns from when on it shows which time.
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
