//! The pace of one destination in memory, as simple as possible. How many attempts it may get
//! follows from the results so far.

use std::time::Duration;

use domain::clock::Timestamp;
use domain::pace::{Feedback, Pace, PaceLimits};
use store::destination_controls::BreakerState;
use store::lease_token::LeaseToken;

/// The pace of one destination.
#[derive(Default)]
pub(in crate::paced) struct Destination {
    pub(in crate::paced) window: Option<f64>,
    pub(in crate::paced) override_limits: Option<PaceLimits>,
    /// How many attempts had been saved up at a time, and that time.
    tokens: Option<(f64, Timestamp)>,
    pub(super) breaker: Breaker,
    results: Results,
    /// The value of `serial` when the window was last narrowed. Failures under this serial or an
    /// older one do not narrow it again.
    narrowed: u64,
    /// When one of its hosts last answered.
    pub(in crate::paced) answered: Option<Timestamp>,
    /// Until when it counts as silent.
    pub(in crate::paced) silent: Option<Timestamp>,
    /// Until when it is held. `Some(None)` means without end.
    pub(super) hold: Option<Option<Timestamp>>,
    /// The highest serial of its shard.
    pub(super) serial: u64,
}

#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum Breaker {
    #[default]
    Closed,
    /// Until when it is open, and how often in a row it has opened.
    Open(Timestamp, u32),
    /// The lease of the probe, and how often in a row the breaker has opened.
    HalfOpen(LeaseToken, u32),
}

/// The results of attempts.
#[derive(Clone, Copy, Default)]
struct Results {
    failures_in_a_row: u32,
    period: i64,
    /// How many were good and how many failed, in this period.
    now: (f64, f64),
    /// The same, in the period before.
    before: (f64, f64),
}

/// How many attempts a destination may get.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Allowed {
    UpTo(usize),
    /// One, because the breaker waits for a probe.
    Probe,
}

impl Destination {
    /// Returns how many attempts it may get now, while `in_flight` others are in flight.
    /// `is_in_flight` returns whether a probe is still in flight.
    pub(super) fn allowed(
        &self,
        settings: &Pace,
        in_flight: u32,
        is_in_flight: impl Fn(LeaseToken) -> bool,
        now: Timestamp,
    ) -> Allowed {
        if self
            .hold
            .is_some_and(|until| until.is_none_or(|until| until > now))
        {
            return Allowed::UpTo(0);
        }
        match self.breaker {
            Breaker::Open(until, _) if until > now => return Allowed::UpTo(0),
            Breaker::HalfOpen(probe, _) if is_in_flight(probe) => return Allowed::UpTo(0),
            Breaker::Open(..) | Breaker::HalfOpen(..) => return Allowed::Probe,
            Breaker::Closed => {}
        }
        let limits = self.limits(settings);
        let window = self
            .window
            .unwrap_or(settings.window_new.into())
            .min(limits.window.into())
            .floor() as u32;
        let window = match () {
            () if self.is_silent(now) => window.min(1),
            () if !self.has_answered_lately(settings, now) => window.min(settings.window_new),
            () => window,
        };
        let room = window.saturating_sub(in_flight) as usize;
        if limits.rate == 0.0 {
            return Allowed::UpTo(room);
        }
        Allowed::UpTo(room.min((self.saved(limits, now) + 1e-6) as usize))
    }

    pub(super) fn is_proven(&self, settings: &Pace, now: Timestamp) -> bool {
        self.has_answered_lately(settings, now) && !self.is_silent(now)
    }

    fn has_answered_lately(&self, settings: &Pace, now: Timestamp) -> bool {
        self.answered
            .is_some_and(|at| now.since(at) < settings.answered_within)
    }

    fn is_silent(&self, now: Timestamp) -> bool {
        self.silent.is_some_and(|until| until > now)
    }

    /// Whether none of its hosts has answered for this long.
    pub(super) fn has_no_answer(&self, waited: Duration, now: Timestamp) -> bool {
        self.answered.is_none_or(|at| at.plus(waited) < now)
    }

    /// Records that one of its hosts answered.
    pub(super) fn note_answer(&mut self, now: Timestamp) {
        (self.answered, self.silent) = (Some(now), None);
    }

    /// Records that an attempt was given up after it had waited for this long. If no host answered
    /// in that time, the breaker opens at once.
    pub(super) fn give_up(
        &mut self,
        settings: &Pace,
        token: LeaseToken,
        waited: Duration,
        in_flight: u32,
        now: Timestamp,
    ) {
        if !self.has_no_answer(waited, now) {
            return self.feed(settings, token, Feedback::RouteFailed, in_flight, now);
        }
        let was_closed = self.breaker == Breaker::Closed;
        self.feed(settings, token, Feedback::HostFailed, in_flight, now);
        if was_closed && self.breaker == Breaker::Closed {
            self.breaker = Breaker::Open(now.plus(settings.breaker.open), 1);
            self.results = Results::default();
        }
    }

    fn limits(&self, settings: &Pace) -> PaceLimits {
        self.override_limits.unwrap_or(settings.limits)
    }

    /// Records that a claim under `token` took `count` jobs.
    pub(super) fn take(
        &mut self,
        settings: &Pace,
        allowed: Allowed,
        token: LeaseToken,
        count: usize,
        now: Timestamp,
    ) {
        let limits = self.limits(settings);
        match (allowed, self.breaker) {
            (Allowed::Probe, Breaker::Open(_, times) | Breaker::HalfOpen(_, times)) => {
                self.breaker = Breaker::HalfOpen(token, times);
            }
            _ if limits.rate > 0.0 => {
                self.tokens = Some((rounded(self.saved(limits, now) - count as f64, 6), now));
            }
            _ => {}
        }
    }

    /// Records that an attempt ended with this feedback. `in_flight` includes the attempt.
    pub(super) fn feed(
        &mut self,
        settings: &Pace,
        token: LeaseToken,
        feedback: Feedback,
        in_flight: u32,
        now: Timestamp,
    ) {
        let window_max = f64::from(self.limits(settings).window);
        let opened_after = |times: u32| {
            let duration = settings.breaker.open * 2_u32.pow(times.min(20));
            Breaker::Open(now.plus(duration.min(settings.breaker.open_max)), times + 1)
        };
        match self.breaker {
            Breaker::HalfOpen(probe, times) if probe == token => match feedback {
                Feedback::Good => {
                    self.window = Some(settings.window_min.into());
                    (self.breaker, self.results) = (Breaker::Closed, Results::default());
                }
                Feedback::HostFailed | Feedback::RouteFailed => {
                    (self.breaker, self.results) = (opened_after(times), Results::default());
                }
                Feedback::Answered | Feedback::Nothing => {
                    self.breaker = Breaker::Open(now.plus(settings.breaker.open), times);
                }
            },
            Breaker::Open(..) | Breaker::HalfOpen(..) => {}
            Breaker::Closed => {
                let window = self.window.unwrap_or(settings.window_new.into());
                let failed = matches!(feedback, Feedback::HostFailed | Feedback::RouteFailed);
                if failed && token.serial > self.narrowed {
                    let narrower = window.min(in_flight.into()) * 0.7;
                    self.window = Some(rounded(narrower.max(settings.window_min.into()), 3));
                    self.narrowed = self.serial;
                } else if feedback == Feedback::Good && f64::from(in_flight) * 2.0 >= window {
                    let wider = if self.narrowed == 0 && window < settings.window.into() {
                        (window + 1.0).min(settings.window.into()).min(window_max)
                    } else {
                        (window + 1.0 / window).min(window_max)
                    };
                    if wider != window {
                        self.window = Some(rounded(wider, 3));
                    }
                }
                if self.count(feedback, settings, now) {
                    (self.breaker, self.results) = (opened_after(0), Results::default());
                }
            }
        }
    }

    pub(in crate::paced) fn breaker_state(&self) -> BreakerState {
        match self.breaker {
            Breaker::Closed => BreakerState::Closed,
            Breaker::Open(until, times) => BreakerState::Open { until, times },
            Breaker::HalfOpen(_, times) => BreakerState::HalfOpen { times },
        }
    }

    fn saved(&self, limits: PaceLimits, now: Timestamp) -> f64 {
        self.tokens.map_or(limits.burst, |(saved, at)| {
            (saved + now.since(at).as_millis() as f64 * limits.rate / 1_000.0).min(limits.burst)
        })
    }

    /// Counts a result. Returns whether it opens the breaker.
    fn count(&mut self, feedback: Feedback, settings: &Pace, now: Timestamp) -> bool {
        let good = f64::from(u8::from(feedback == Feedback::Good));
        let bad = f64::from(u8::from(feedback == Feedback::HostFailed));
        if good + bad == 0.0 {
            return false;
        }
        let over = settings.breaker.over.as_millis() as i64;
        let period = now.ms().div_euclid(over);
        let results = &mut self.results;
        match period - results.period {
            0 => {}
            1 => (results.before, results.now) = (results.now, (0.0, 0.0)),
            _ => (results.before, results.now) = ((0.0, 0.0), (0.0, 0.0)),
        }
        results.period = period;
        results.now = (results.now.0 + good, results.now.1 + bad);
        results.failures_in_a_row = if good > 0.0 {
            0
        } else {
            results.failures_in_a_row + bad as u32
        };
        // The period before counts for the part of it that is less than `over` ago.
        let share_before = 1.0 - now.ms().rem_euclid(over) as f64 / over as f64;
        let tried =
            results.now.0 + results.now.1 + share_before * (results.before.0 + results.before.1);
        let failed = results.now.1 + share_before * results.before.1;
        let breaker = settings.breaker;
        results.failures_in_a_row >= breaker.failures
            || (tried >= breaker.samples.into() && failed >= breaker.share * tried)
    }
}

/// Returns the number that is read back after `number` was written with this many decimal places.
fn rounded(number: f64, digits: usize) -> f64 {
    format!("{number:.digits$}").parse().unwrap()
}
