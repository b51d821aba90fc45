//! Pace: how many attempts a destination gets at once and per second, and when its breaker keeps
//! attempts from it. These are the settings; what a destination's pace is now is in Redis, where
//! the whole fleet shares it.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a rate may be, in attempts per second; 0 is no limit.
pub const RATE_ALLOWED: RangeInclusive<f64> = 0.0..=1_000_000.0;

/// How many attempts it may be that are saved up.
pub const BURST_ALLOWED: RangeInclusive<f64> = 1.0..=1_000_000.0;

/// How many attempts it may be at once.
pub const WINDOW_ALLOWED: RangeInclusive<u32> = 1..=100_000;

/// What one destination may get at most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaceLimits {
    /// Attempts per second; 0 is no limit.
    pub rate: f64,
    /// How many attempts may be saved up while there were none.
    pub burst: f64,
    /// Attempts under way at once.
    pub window: u32,
}

/// Pace and breaker where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The limits of a destination that has none of its own.
    pub limits: PaceLimits,
    /// How many attempts may be under way at a destination that has not answered lately.
    pub window_new: u32,
    /// For how long after an answer a destination has answered lately.
    pub answered_within: Duration,
    /// Up to how many attempts at once each success adds one, as long as nothing has failed. From
    /// then on each window's worth of successes adds one, and failures of the host or the route
    /// take some away.
    pub window: u32,
    /// How many failures leave of it at least, and with how many a closed breaker begins.
    pub window_min: u32,
    /// When attempts are kept from a destination.
    pub breaker: Breaker,
}

/// When the breaker of a destination opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    /// Failures of the host in a row that open it.
    pub failures: u32,
    /// The share of failures that opens it, above 0 and up to 1,
    pub share: f64,
    /// of at least so many attempts
    pub samples: u32,
    /// within this time.
    pub over: Duration,
    /// How long it is open the first time; doubled for each time in a row.
    pub open: Duration,
    /// How long it is so at most.
    pub open_max: Duration,
}

impl Default for Pace {
    /// No limit but the window, which starts at 2 and soon is 20.
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        let breaker = Breaker {
            failures: 10,
            share: 0.5,
            samples: 20,
            over: minute,
            open: minute,
            open_max: 60 * minute,
        };
        let limits = PaceLimits {
            rate: 0.0,
            burst: 10.0,
            window: 200,
        };
        Self {
            limits,
            window_new: 2,
            answered_within: 10 * minute,
            window: 20,
            window_min: 1,
            breaker,
        }
    }
}

impl Pace {
    /// One that is kept like any other and never says no: for benches, and for tests of other
    /// things.
    pub fn unbounded() -> Self {
        let most = 10_000_000;
        let pace = Self::default();
        let breaker = Breaker {
            failures: most,
            samples: most,
            ..pace.breaker
        };
        let limits = PaceLimits {
            window: most,
            ..pace.limits
        };
        Self {
            limits,
            window_new: most,
            window: most,
            window_min: most,
            breaker,
            ..pace
        }
    }
}

/// What the end of an attempt says about its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// The mail system dealt with it, whatever it said of mailbox or message.
    Good,
    /// The host failed: it narrows the window and feeds the breaker.
    HostFailed,
    /// Our route to it failed, our reputation there say: it narrows the window.
    RouteFailed,
    /// It answered, and that says nothing of how well it works.
    Answered,
    /// Nothing: the trouble was ours, or nothing was tried.
    Nothing,
}

impl Feedback {
    /// The mark that the scripts know it by.
    pub const fn mark(self) -> &'static str {
        match self {
            Self::Good => "+",
            Self::HostFailed => "-",
            Self::RouteFailed => "~",
            Self::Answered => "=",
            Self::Nothing => "",
        }
    }
}

/// As the scripts have it: `rate burst window`.
impl fmt::Display for PaceLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.rate, self.burst, self.window)
    }
}

/// Why a text is no limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("limits look like: 2 10 20")]
pub struct NotPaceLimits;

impl FromStr for PaceLimits {
    type Err = NotPaceLimits;

    fn from_str(text: &str) -> Result<Self, NotPaceLimits> {
        let parts: Vec<&str> = text.split(' ').collect();
        let [rate, burst, window] = parts.as_slice() else {
            return Err(NotPaceLimits);
        };
        let number = |text: &str| text.parse().map_err(|_| NotPaceLimits);
        Ok(Self {
            rate: number(rate)?,
            burst: number(burst)?,
            window: window.parse().map_err(|_| NotPaceLimits)?,
        })
    }
}

/// A `[[destination]]` section: limits for the destinations that a name or a pattern covers.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// A destination's name, `example.com` or `google`; or `*.example.com` for all domains below
    /// one; or `*`.
    pub name: String,
    /// What it may get at most.
    pub limits: PaceLimits,
}

impl DestinationRule {
    /// Whether it is about this destination.
    pub fn covers(&self, destination: &str) -> bool {
        match self.name.strip_prefix('*') {
            Some(rest) => destination.ends_with(rest),
            None => destination == self.name,
        }
    }
}

/// The limits of a destination: those of the rule that names it, else of the longest pattern that
/// covers it.
pub fn limits_for(rules: &[DestinationRule], destination: &str) -> Option<PaceLimits> {
    let covering = rules.iter().filter(|rule| rule.covers(destination));
    covering
        .max_by_key(|rule| (!rule.name.starts_with('*'), rule.name.len()))
        .map(|rule| rule.limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_back_as_they_were_written() {
        for limits in [
            PaceLimits {
                rate: 0.0,
                burst: 10.0,
                window: 200,
            },
            PaceLimits {
                rate: 0.25,
                burst: 1.5,
                window: 1,
            },
        ] {
            assert_eq!(limits.to_string().parse(), Ok(limits));
        }
        for text in ["", "1 2", "1 2 x", "1 2 3 4"] {
            assert_eq!(text.parse::<PaceLimits>(), Err(NotPaceLimits), "{text}");
        }
    }

    #[test]
    fn the_most_specific_rule_counts() {
        let rule = |name: &str, window| DestinationRule {
            name: name.to_owned(),
            limits: PaceLimits {
                rate: 0.0,
                burst: 1.0,
                window,
            },
        };
        let rules = [
            rule("*", 1),
            rule("*.example.com", 2),
            rule("mail.example.com", 3),
            rule("google", 4),
        ];
        for (destination, window) in [
            ("mail.example.com", 3),
            ("a.example.com", 2),
            ("example.com", 1),
            ("google", 4),
            ("other.org", 1),
        ] {
            assert_eq!(
                limits_for(&rules, destination).map(|limits| limits.window),
                Some(window),
                "{destination}"
            );
        }
        assert_eq!(limits_for(&rules[1..], "other.org"), None);
    }
}
