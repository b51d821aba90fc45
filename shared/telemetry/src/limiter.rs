//! Limits lines of the log that may come very often: one per kind and minute, with the number of
//! those that were left out before it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the lines of one kind are left out after one was written.
const PERIOD: Duration = Duration::from_secs(60);

/// Decides which lines are written. The number of kinds bounds its memory.
#[derive(Debug, Default)]
pub struct Limiter(Mutex<HashMap<&'static str, Kind>>);

#[derive(Debug)]
struct Kind {
    written_at: Instant,
    left_out: u64,
}

impl Limiter {
    /// Returns how many lines of this kind were left out before this one, if this one is to be
    /// written. `None` if it is to be left out.
    pub fn admit(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = kinds.get_mut(kind) else {
            let first = Kind {
                written_at: now,
                left_out: 0,
            };
            kinds.insert(kind, first);
            return Some(0);
        };
        if now.duration_since(known.written_at) < PERIOD {
            known.left_out += 1;
            return None;
        }
        known.written_at = now;
        Some(std::mem::take(&mut known.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_a_kind_is_written_each_minute_with_the_number_of_the_others() {
        let limiter = Limiter::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(limiter.admit("retired", at(0)), Some(0));
        assert_eq!(limiter.admit("retired", at(1)), None);
        assert_eq!(
            limiter.admit("lapsed", at(1)),
            Some(0),
            "each kind has its own"
        );
        assert_eq!(limiter.admit("retired", at(59)), None);
        assert_eq!(limiter.admit("retired", at(60)), Some(2));
        assert_eq!(limiter.admit("retired", at(119)), None);
        assert_eq!(limiter.admit("retired", at(121)), Some(1));
    }
}
