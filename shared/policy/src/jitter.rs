//! Jitter: spreads the jobs of one campaign, so that they do not return as one wave. It depends
//! only on the job and the attempt. So policy stays pure, and a simulation can be repeated.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How far a delay may be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jitter {
    percent: u8,
    may_be_early: bool,
}

/// Why a text is not a jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("jitter looks like \"±10%\", \"+10%\" or \"0%\", with at most 50%")]
pub struct NotAJitter;

impl Jitter {
    /// Returns the same jitter, but one that never shortens a delay.
    pub const fn never_early(self) -> Self {
        Self {
            may_be_early: false,
            ..self
        }
    }

    /// Moves `delay` by the share of the jitter that belongs to this job and attempt.
    pub fn apply(self, delay: Duration, job: &str, attempt: u32) -> Duration {
        // The upper half of the hash is precise enough for an even spread, and exact as a float.
        let hash = xxh3_64_with_seed(job.as_bytes(), u64::from(attempt)) >> 32;
        let uniform = hash as f64 / f64::from(u32::MAX);
        let share = f64::from(self.percent) / 100.0;
        let factor = if self.may_be_early {
            1.0 + share * (2.0 * uniform - 1.0)
        } else {
            1.0 + share * uniform
        };
        let moved = delay.mul_f64(factor);
        Duration::from_millis(moved.as_millis().try_into().unwrap_or(u64::MAX))
    }
}

impl FromStr for Jitter {
    type Err = NotAJitter;

    fn from_str(text: &str) -> Result<Self, NotAJitter> {
        let (may_be_early, rest) = match text.strip_prefix('±') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let digits = rest
            .strip_suffix('%')
            .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))
            .ok_or(NotAJitter)?;
        let percent = digits
            .parse()
            .ok()
            .filter(|percent| *percent <= 50)
            .ok_or(NotAJitter)?;
        if !text.starts_with(['±', '+']) && percent != 0 {
            return Err(NotAJitter);
        }
        Ok(Self {
            percent,
            may_be_early,
        })
    }
}

impl fmt::Display for Jitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match (self.percent, self.may_be_early) {
            (0, _) => "",
            (_, true) => "±",
            (_, false) => "+",
        };
        write!(f, "{sign}{}%", self.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn jitter_stays_within_its_limits_and_uses_them() {
        for (text, least, most) in [("±10%", 0.9, 1.1), ("+10%", 1.0, 1.1), ("0%", 1.0, 1.0)] {
            let jitter: Jitter = text.parse().unwrap();
            let moved: Vec<_> = (0..2_000)
                .map(|n| jitter.apply(HOUR, &format!("acme/{n}@example.com"), 1))
                .collect();
            let (min, max) = (*moved.iter().min().unwrap(), *moved.iter().max().unwrap());
            assert!(
                min >= HOUR.mul_f64(least) && max <= HOUR.mul_f64(most),
                "{text}: {min:?} to {max:?}"
            );
            assert!(
                max - min >= HOUR.mul_f64((most - least) * 0.95),
                "{text} spreads over its whole width"
            );
            assert_eq!(jitter.to_string(), text);
        }
    }

    #[test]
    fn each_attempt_of_a_job_has_its_own_jitter() {
        let jitter: Jitter = "±10%".parse().unwrap();
        assert_ne!(
            jitter.apply(HOUR, "acme/jo@example.com", 1),
            jitter.apply(HOUR, "acme/jo@example.com", 2)
        );
        assert_eq!(
            jitter.apply(HOUR, "acme/jo@example.com", 1),
            jitter.apply(HOUR, "acme/jo@example.com", 1)
        );
    }

    #[test]
    fn a_text_that_is_not_a_jitter_is_rejected() {
        for text in ["", "10%", "±10", "±51%", "-10%", "±+1%", "±%", "++1%"] {
            assert_eq!(text.parse::<Jitter>(), Err(NotAJitter), "{text}");
        }
    }
}
