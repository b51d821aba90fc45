//! Decides when trouble on our side is logged. For each place and kind there is one log line when
//! the trouble begins and one when it is over, even if it occurs many times in between. So trouble
//! that comes and goes is logged about once a minute at most.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A trouble is over if it has not occurred for this long.
pub const QUIET: Duration = Duration::from_secs(60);

/// The current troubles by place, for example by route. The number of places and kinds bounds their
/// number.
#[derive(Debug)]
pub struct Troubles<K>(Mutex<HashMap<String, Vec<Trouble<K>>>>);

#[derive(Debug)]
struct Trouble<K> {
    kind: K,
    began: Instant,
    last: Instant,
    times: u64,
}

/// A line to log about a trouble.
#[derive(Debug, PartialEq, Eq)]
pub enum LogLine {
    /// The trouble has just begun.
    Begun,
    /// The trouble is over: it has not occurred for [`QUIET`].
    Over {
        /// The time from its first to its last occurrence.
        lasted: Duration,
        /// How often it occurred.
        times: u64,
    },
}

impl<K> Default for Troubles<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Copy + PartialEq> Troubles<K> {
    /// Records that a trouble occurred at a place, or, with `None`, a success there. Returns the
    /// lines to log.
    pub fn note(&self, place: &str, trouble: Option<K>, now: Instant) -> Vec<LogLine> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kind) = trouble else {
            let Some(troubles) = places.get_mut(place) else {
                return Vec::new();
            };
            let over = troubles.extract_if(.., |trouble| now.duration_since(trouble.last) >= QUIET);
            return over.map(Trouble::over).collect();
        };
        if !places.contains_key(place) {
            places.insert(place.to_owned(), Vec::new());
        }
        let Some(troubles) = places.get_mut(place) else {
            return Vec::new();
        };
        if let Some(known) = troubles.iter_mut().find(|known| known.kind == kind) {
            (known.last, known.times) = (now, known.times + 1);
            return Vec::new();
        }
        troubles.push(Trouble {
            kind,
            began: now,
            last: now,
            times: 1,
        });
        vec![LogLine::Begun]
    }
}

impl<K> Trouble<K> {
    fn over(self) -> LogLine {
        LogLine::Over {
            lasted: self.last.duration_since(self.began),
            times: self.times,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_logged_when_it_begins_and_when_it_is_over() {
        let (troubles, start) = (Troubles::default(), Instant::now());
        let over = |lasted_s, times| {
            vec![LogLine::Over {
                lasted: Duration::from_secs(lasted_s),
                times,
            }]
        };
        let (nothing, begun) = (Vec::new, || vec![LogLine::Begun]);
        for (at_s, place, trouble, lines) in [
            (0, "relay", None, nothing()),
            (1, "relay", Some("lost"), begun()),
            (2, "relay", Some("lost"), nothing()),
            // A success in between does not end it at once.
            (3, "relay", None, nothing()),
            (4, "platform", Some("lost"), begun()),
            (50, "relay", Some("lost"), nothing()),
            // Another kind of trouble has its own line.
            (60, "relay", Some("local"), begun()),
            (109, "relay", None, nothing()),
            (110, "relay", None, over(49, 3)),
            (111, "relay", None, nothing()),
            (112, "platform", None, over(0, 1)),
            (113, "relay", Some("lost"), begun()),
            (120, "relay", None, over(0, 1)),
            (121, "relay", Some("missing"), begun()),
            (122, "relay", Some("missing"), nothing()),
            (
                182,
                "relay",
                None,
                over(0, 1).into_iter().chain(over(1, 2)).collect(),
            ),
        ] {
            assert_eq!(
                troubles.note(place, trouble, start + Duration::from_secs(at_s)),
                lines,
                "{at_s} s"
            );
        }
    }
}
