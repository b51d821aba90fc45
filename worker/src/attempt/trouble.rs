//! Trouble of our own that attempts meet, as the log has it: by route, kind and error, when it
//! begins and when it is over.

use std::time::Instant;

use domain::outcome::{Fault, FaultKind, Outcome, Side};
use system::troubles::{News, Troubles};

/// How much of a fault's text is shown, in characters.
const SHOWN_CHARS: usize = 300;

/// The troubles that routes have.
#[derive(Default)]
pub(super) struct RouteTroubles(Troubles<Kind>);

/// What kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// No peer could be asked to take a message. With the name of the error, if it has one.
    Fault(FaultKind, Option<&'static str>),
    /// There is nothing to send: such messages are dropped.
    ContentMissing,
}

impl RouteTroubles {
    /// Logs what an outcome has news of.
    pub(super) fn say(&self, route: &str, outcome: &Outcome) {
        let kind = match outcome {
            Outcome::Unreachable(fault) if fault.side == Side::Ours => {
                Some(Kind::Fault(fault.kind, fault.name))
            }
            Outcome::Unreadable(_) => Some(Kind::ContentMissing),
            _ => None,
        };
        for news in self.0.note(route, kind, Instant::now()) {
            match (news, outcome) {
                (News::Begun, Outcome::Unreadable(why)) => {
                    tracing::warn!(
                        route,
                        why,
                        "content is missing: messages are dropped, their addresses stay"
                    );
                }
                (News::Begun, Outcome::Unreachable(fault)) => {
                    let fault = shown(fault);
                    tracing::warn!(
                        route,
                        fault,
                        "a trouble of our own: mail waits, and no attempt is spent"
                    );
                }
                (News::Begun, _) => {}
                (News::Over { lasted, times }, _) => {
                    let (lasted_s, attempts) = (lasted.as_secs(), times);
                    tracing::info!(
                        route,
                        attempts,
                        lasted_s,
                        "a trouble of our own on this route is over"
                    );
                }
            }
        }
    }
}

/// A fault as the log may have it: what others said may name an address, plain or as in a URL.
fn shown(fault: &Fault) -> String {
    let hide = |word| {
        if str::contains(word, '@') || str::contains(word, "%40") {
            "…"
        } else {
            word
        }
    };
    let text = fault.to_string();
    let words: Vec<&str> = text.split_whitespace().map(hide).collect();
    words.join(" ").chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_shown_and_no_more_than_there_is_room_for() {
        for (text, expected) in [
            ("530 5.7.0 TLS first", "not sent: 530 5.7.0 TLS first"),
            (
                "no login for <jo@example.com>, sorry",
                "not sent: no login for … sorry",
            ),
            (
                "GET https://host/mail/jo%40example.com.eml failed",
                "not sent: GET … failed",
            ),
        ] {
            assert_eq!(
                shown(&Fault::ours(FaultKind::Local, text.to_owned())),
                expected
            );
        }
        let long = Fault::ours(FaultKind::Local, "x".repeat(10_000));
        assert_eq!(shown(&long).chars().count(), SHOWN_CHARS);
    }
}
