//! Trouble of our own, as the log has it: for each route one line when it begins and one when it is over, however many
//! attempts meet it in between. So what comes and goes is told at most about once a minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::outcome::{Fault, Outcome, Side};

/// For so long no attempt may have met a trouble before it is over.
const QUIET: Duration = Duration::from_secs(60);

/// How much of a fault's text is shown, in characters.
const SHOWN_CHARS: usize = 200;

/// The troubles that routes have. There are no more than routes.
#[derive(Default)]
pub(super) struct Troubles(Mutex<HashMap<String, Trouble>>);

struct Trouble {
    began: Instant,
    last: Instant,
    attempts: u64,
}

/// What is to be said.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Begun,
    Over { lasted: Duration, attempts: u64 },
}

impl Troubles {
    /// Says what an outcome has news of.
    pub(super) fn say(&self, route: &str, outcome: &Outcome) {
        let trouble = match outcome {
            Outcome::Unreachable(fault) if fault.side == Side::Ours => Some(fault),
            // Nobody was asked for anything.
            Outcome::Unreadable(_) => return,
            _ => None,
        };
        match (self.note(route, trouble.is_some(), Instant::now()), trouble) {
            (Some(News::Begun), Some(fault)) => {
                let fault = shown(fault);
                tracing::warn!(
                    route,
                    fault,
                    "trouble of our own: attempts on this route say nothing of their recipients"
                );
            }
            (Some(News::Over { lasted, attempts }), _) => {
                let lasted_s = lasted.as_secs();
                tracing::info!(route, attempts, lasted_s, "the trouble of our own on this route is over");
            }
            _ => {}
        }
    }

    fn note(&self, route: &str, is_trouble: bool, now: Instant) -> Option<News> {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = troubles.get_mut(route);
        match (known, is_trouble) {
            (None, false) => None,
            (None, true) => {
                troubles.insert(route.to_owned(), Trouble { began: now, last: now, attempts: 1 });
                Some(News::Begun)
            }
            (Some(trouble), true) => {
                (trouble.last, trouble.attempts) = (now, trouble.attempts + 1);
                None
            }
            (Some(trouble), false) if now.duration_since(trouble.last) < QUIET => None,
            (Some(_), false) => {
                let Trouble { began, last, attempts } = troubles.remove(route)?;
                Some(News::Over { lasted: last.duration_since(began), attempts })
            }
        }
    }
}

/// A fault as the log may have it: what others said may name an address, plain or as in a URL.
fn shown(fault: &Fault) -> String {
    let hide = |word| if str::contains(word, '@') || str::contains(word, "%40") { "…" } else { word };
    let text = fault.to_string();
    let words: Vec<&str> = text.split_whitespace().map(hide).collect();
    words.join(" ").chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use shared::outcome::FaultKind;

    use super::*;

    #[test]
    fn a_trouble_is_told_when_it_begins_and_when_it_is_over() {
        let (troubles, start) = (Troubles::default(), Instant::now());
        let over = |lasted_s, attempts| Some(News::Over { lasted: Duration::from_secs(lasted_s), attempts });
        for (at_s, route, is_trouble, news) in [
            (0, "relay", false, None),
            (1, "relay", true, Some(News::Begun)),
            (2, "relay", true, None),
            // It comes and goes.
            (3, "relay", false, None),
            (4, "platform", true, Some(News::Begun)),
            (50, "relay", true, None),
            (109, "relay", false, None),
            (110, "relay", false, over(49, 3)),
            (111, "relay", false, None),
            (112, "platform", false, over(0, 1)),
            (113, "relay", true, Some(News::Begun)),
        ] {
            assert_eq!(troubles.note(route, is_trouble, start + Duration::from_secs(at_s)), news, "{at_s} s");
        }
    }

    #[test]
    fn no_address_is_shown_and_no_more_than_there_is_room_for() {
        for (text, expected) in [
            ("530 5.7.0 TLS first", "not sent: 530 5.7.0 TLS first"),
            ("no login for <jo@example.com>, sorry", "not sent: no login for … sorry"),
            ("GET https://host/mail/jo%40example.com.eml failed", "not sent: GET … failed"),
        ] {
            assert_eq!(shown(&Fault { kind: FaultKind::Local, side: Side::Ours, text: text.to_owned() }), expected);
        }
        let long = Fault { kind: FaultKind::Local, side: Side::Ours, text: "x".repeat(10_000) };
        assert_eq!(shown(&long).chars().count(), SHOWN_CHARS);
    }
}
