//! Pace: how many attempts a destination gets at once and per second, and when its breaker stops
//! attempts. These are the settings. The current state of a destination's pace is in Redis, where
//! the whole fleet shares it.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The allowed values of a rate, in attempts per second. 0 means no limit.
pub const RATE_ALLOWED: RangeInclusive<f64> = 0.0..=1_000_000.0;

/// The allowed values of a burst, in attempts.
pub const BURST_ALLOWED: RangeInclusive<f64> = 1.0..=1_000_000.0;

/// The allowed values of a window, in attempts at once.
pub const WINDOW_ALLOWED: RangeInclusive<u32> = 1..=100_000;

/// The upper limits for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaceLimits {
    /// Attempts per second. 0 means no limit.
    pub rate: f64,
    /// How many attempts may be saved up while none are made.
    pub burst: f64,
    /// How many attempts may run at once.
    pub window: u32,
}

/// Pace and breaker of a destination without settings of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The limits of a destination without limits of its own.
    pub limits: PaceLimits,
    /// How many attempts may run at once at a destination that has not answered recently.
    pub window_new: u32,
    /// How long an answer counts as recent.
    pub answered_within: Duration,
    /// The size up to which each success adds one to the window, as long as nothing has failed.
    /// Above it, one is added after as many successes as the window is large. Failures of the host
    /// or the route make the window smaller.
    pub window: u32,
    /// The smallest window that failures lead to. Also the window right after a breaker has closed.
    pub window_min: u32,
    /// When attempts to a destination are stopped.
    pub breaker: Breaker,
}

/// When the breaker of a destination opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    /// How many failures of the host in a row open the breaker.
    pub failures: u32,
    /// The share of failures that opens it, above 0 and at most 1. Counted over at least `samples`
    /// attempts within the time `over`.
    pub share: f64,
    /// The smallest number of attempts for which `share` is judged.
    pub samples: u32,
    /// The time over which `share` is counted.
    pub over: Duration,
    /// How long the breaker is open the first time. Doubled each further time in a row.
    pub open: Duration,
    /// The longest time that the breaker is open.
    pub open_max: Duration,
}

impl Default for Pace {
    /// No limit except the window, which starts at 2 and soon grows to 20.
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
    /// Returns a pace that is stored and counted as usual but never limits anything: for benches,
    /// and for tests of other things.
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

/// What the end of an attempt means for the pace of its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// The mail system processed the attempt, even if it refused the mailbox or the message.
    Good,
    /// The host failed. The window gets smaller, and the breaker counts a failure.
    HostFailed,
    /// Our route to the mail system failed, for example because of our reputation there. The window
    /// gets smaller.
    RouteFailed,
    /// The mail system answered, but the answer shows nothing about how well it works.
    Answered,
    /// No feedback: the trouble was on our side, or nothing was tried.
    Nothing,
}

impl Feedback {
    /// Returns the mark that the scripts use for it.
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

/// The form that the scripts use: `rate burst window`.
impl fmt::Display for PaceLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.rate, self.burst, self.window)
    }
}

/// Why a text is not a set of limits.
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

/// A `[[destination]]` section: limits for all destinations that match a name or a pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// The name of a destination (`example.com`, `google`), or `*.example.com` for all domains
    /// below one, or `*`.
    pub name: String,
    /// The upper limits of these destinations.
    pub limits: PaceLimits,
}

impl DestinationRule {
    /// Whether the rule applies to this destination.
    pub fn covers(&self, destination: &str) -> bool {
        match self.name.strip_prefix('*') {
            Some(rest) => destination.ends_with(rest),
            None => destination == self.name,
        }
    }
}

/// Returns the limits of a destination: from the rule with its exact name, else from the longest
/// pattern that matches.
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
    fn limits_are_read_back_as_they_were_written() {
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
    fn the_most_specific_rule_applies() {
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
