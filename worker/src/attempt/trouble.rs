//! Logs trouble of our own that attempts meet, for example no network or missing content. For each
//! route, kind and error it logs one line when the trouble begins and one when it is over. Does not
//! know what happens to the message.

use std::time::Instant;

use domain::outcome::{Fault, FaultKind, Outcome, Side, without_addresses};
use system::troubles::{LogLine, Troubles};

/// How many characters of a fault's text are logged at most.
const FAULT_CHARS_MAX: usize = 300;

/// The current troubles of all routes.
#[derive(Default)]
pub(super) struct RouteTroubles(Troubles<Kind>);

/// The kind of a trouble of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// No reply was received because of a fault on our side. Contains the name of the error, if it
    /// has a name.
    Fault(FaultKind, Option<&'static str>),
    /// The message's content could not be read. Such messages are dropped.
    ContentMissing,
}

impl RouteTroubles {
    /// Logs a line if this outcome on a route shows that a trouble has begun or is over.
    pub(super) fn log(&self, route: &str, outcome: &Outcome) {
        let kind = match outcome {
            Outcome::Unreachable(fault) if fault.side == Side::Ours => {
                Some(Kind::Fault(fault.kind, fault.name))
            }
            Outcome::Unreadable(_) => Some(Kind::ContentMissing),
            _ => None,
        };
        for line in self.0.note(route, kind, Instant::now()) {
            match (line, outcome) {
                (LogLine::Begun, Outcome::Unreadable(why)) => {
                    tracing::warn!(
                        route,
                        why,
                        "content is missing: messages are dropped, \
                         and their addresses keep their standing"
                    );
                }
                (LogLine::Begun, Outcome::Unreachable(fault)) => {
                    let fault = redacted(fault);
                    tracing::warn!(
                        route,
                        fault,
                        "a trouble of our own: mail waits, and the attempt does not count"
                    );
                }
                (LogLine::Begun, _) => {}
                (LogLine::Over { lasted, times }, _) => {
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

/// Returns a fault's text for the log. Words that contain an address are hidden.
fn redacted(fault: &Fault) -> String {
    let text = without_addresses(&fault.to_string());
    text.chars().take(FAULT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_fault_contains_no_address_and_is_cut_at_its_limit() {
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
                redacted(&Fault::ours(FaultKind::Local, text.to_owned())),
                expected
            );
        }
        let long = Fault::ours(FaultKind::Local, "x".repeat(10_000));
        assert_eq!(redacted(&long).chars().count(), FAULT_CHARS_MAX);
    }
}
