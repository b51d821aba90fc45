//! Trouble of our own, as the log has it: for each route and kind one line when it begins and one when it is over, however many
//! attempts meet it in between. So what comes and goes is told at most about once a minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::outcome::{Fault, FaultKind, Outcome, Side};

/// For so long no attempt may have met a trouble before it is over.
const QUIET: Duration = Duration::from_secs(60);

/// How much of a fault's text is shown, in characters.
const SHOWN_CHARS: usize = 200;

/// The troubles that routes have, one of each kind. There are no more than routes.
#[derive(Default)]
pub(super) struct Troubles(Mutex<HashMap<String, Vec<Trouble>>>);

struct Trouble {
    kind: Kind,
    began: Instant,
    last: Instant,
    attempts: u64,
}

/// What kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nobody could be asked to take a message.
    Fault(FaultKind),
    /// There is nothing to send: such messages are dropped.
    ContentMissing,
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
        let kind = match outcome {
            Outcome::Unreachable(fault) if fault.side == Side::Ours => Some(Kind::Fault(fault.kind)),
            Outcome::Unreadable(_) => Some(Kind::ContentMissing),
            _ => None,
        };
        for news in self.note(route, kind, Instant::now()) {
            match (news, outcome) {
                (News::Begun, Outcome::Unreadable(why)) => {
                    tracing::warn!(route, why, "content is missing: messages are dropped, their addresses stay");
                }
                (News::Begun, Outcome::Unreachable(fault)) => {
                    let fault = shown(fault);
                    tracing::warn!(route, fault, "a trouble of our own: mail waits, and no attempt is spent");
                }
                (News::Begun, _) => {}
                (News::Over { lasted, attempts }, _) => {
                    let lasted_s = lasted.as_secs();
                    tracing::info!(route, attempts, lasted_s, "a trouble of our own on this route is over");
                }
            }
        }
    }

    fn note(&self, route: &str, trouble: Option<Kind>, now: Instant) -> Vec<News> {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kind) = trouble else {
            let Some(troubles) = routes.get_mut(route) else { return Vec::new() };
            let over = troubles.extract_if(.., |trouble| now.duration_since(trouble.last) >= QUIET);
            let told = |Trouble { began, last, attempts, .. }: Trouble| News::Over {
                lasted: last.duration_since(began),
                attempts,
            };
            return over.map(told).collect();
        };
        if !routes.contains_key(route) {
            routes.insert(route.to_owned(), Vec::new());
        }
        let Some(troubles) = routes.get_mut(route) else { return Vec::new() };
        if let Some(known) = troubles.iter_mut().find(|known| known.kind == kind) {
            (known.last, known.attempts) = (now, known.attempts + 1);
            return Vec::new();
        }
        troubles.push(Trouble { kind, began: now, last: now, attempts: 1 });
        vec![News::Begun]
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
    use super::*;

    #[test]
    fn a_trouble_is_told_when_it_begins_and_when_it_is_over() {
        let (troubles, start) = (Troubles::default(), Instant::now());
        let over = |lasted_s, attempts| vec![News::Over { lasted: Duration::from_secs(lasted_s), attempts }];
        let (nothing, begun) = (Vec::new, || vec![News::Begun]);
        let (lost, local) = (Some(Kind::Fault(FaultKind::Lost)), Some(Kind::Fault(FaultKind::Local)));
        let missing = Some(Kind::ContentMissing);
        for (at_s, route, trouble, news) in [
            (0, "relay", None, nothing()),
            (1, "relay", lost, begun()),
            (2, "relay", lost, nothing()),
            // It comes and goes.
            (3, "relay", None, nothing()),
            (4, "platform", lost, begun()),
            (50, "relay", lost, nothing()),
            // One trouble hides no other.
            (60, "relay", local, begun()),
            (109, "relay", None, nothing()),
            (110, "relay", None, over(49, 3)),
            (111, "relay", None, nothing()),
            (112, "platform", None, over(0, 1)),
            (113, "relay", lost, begun()),
            (120, "relay", None, over(0, 1)),
            (121, "relay", missing, begun()),
            (122, "relay", missing, nothing()),
            (182, "relay", None, over(0, 1).into_iter().chain(over(1, 2)).collect()),
        ] {
            assert_eq!(troubles.note(route, trouble, start + Duration::from_secs(at_s)), news, "{at_s} s");
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
