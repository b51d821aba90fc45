//! Limits lines of the log that may come very often: one per kind and minute, with the number of
//! those that were left out before it.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the lines of one kind are left out after one was written.
const PERIOD: Duration = Duration::from_secs(60);

/// The lines of this process about outages. Many parts of a process notice the same outage, so the
/// kinds are those of the process.
static OUTAGES: LazyLock<Limiter> = LazyLock::new(Limiter::default);

/// Returns how many lines of this kind, which are about an outage, were left out in this process
/// before this one, if this one is to be written. `None` if it is to be left out.
pub fn admit_outage(kind: &'static str) -> Option<u64> {
    OUTAGES.admit(kind, Instant::now())
}

/// Returns how many lines of each kind about outages were left out in this process, if a minute has
/// passed and none of the kind followed. Forgets them.
pub fn left_out_of_outages() -> Vec<(&'static str, u64)> {
    OUTAGES.take_overdue(Instant::now())
}

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

    /// Returns how many lines were left out of each kind of which no line was written for a while,
    /// and forgets them.
    fn take_overdue(&self, now: Instant) -> Vec<(&'static str, u64)> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let overdue = kinds.iter_mut().filter(|(_, known)| {
            known.left_out > 0 && now.duration_since(known.written_at) >= PERIOD
        });
        overdue
            .map(|(kind, known)| {
                known.written_at = now;
                (*kind, std::mem::take(&mut known.left_out))
            })
            .collect()
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

    #[test]
    fn lines_that_were_left_out_are_counted_even_if_none_follows() {
        let limiter = Limiter::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for _ in 0..5 {
            limiter.admit("requests", at(0));
        }
        limiter.admit("reports", at(0));
        assert_eq!(limiter.take_overdue(at(59)), []);
        assert_eq!(limiter.take_overdue(at(60)), [("requests", 4)]);
        assert_eq!(limiter.take_overdue(at(200)), []);
    }
}
