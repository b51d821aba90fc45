//! How each mail server of the demo behaves. Whether a server refuses a recipient depends only on
//! the recipient and on the time since the opening. The opening is the instant at which the demo's
//! clock started. A server must not know about jobs or policy.

use std::time::Duration;

pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How one server behaves: its domain, and which recipients it refuses at which time.
#[derive(Debug)]
pub(super) struct Behavior {
    /// The name of the route that leads to the server.
    pub(super) route: &'static str,
    /// The only domain that the server accepts mail for.
    pub(super) domain: &'static str,
    /// What is wrong with the server, in a few words.
    pub(super) description: &'static str,
    /// Returns the reply that refuses `RCPT`, for this local part and this time since the opening.
    /// Returns `None` if the server accepts the recipient.
    pub(super) refusal: fn(&str, Duration) -> Option<&'static str>,
}

/// All servers, in the order in which the introduction lists them.
pub(super) static BEHAVIORS: [Behavior; 6] = [
    Behavior {
        route: "full",
        domain: "full.example",
        description: "mail system full for 5 days",
        refusal: |_, elapsed| {
            (elapsed < 5 * DAY).then_some("452 4.3.1 Insufficient system storage")
        },
    },
    Behavior {
        route: "maintenance",
        domain: "maintenance.example",
        description: "closed for maintenance for 10 hours",
        refusal: |_, elapsed| {
            (elapsed < 10 * HOUR).then_some("451 4.3.2 System not accepting network messages")
        },
    },
    Behavior {
        route: "silent",
        domain: "gone.example",
        description: "never accepts network messages again",
        refusal: |_, _| Some("451 4.3.2 System not accepting network messages"),
    },
    Behavior {
        route: "disabled",
        domain: "disabled.example",
        description: "mailboxes disabled: a third for 2 days, a third for 6, a third for good",
        refusal: |local, elapsed| {
            let enabled = disabled_for(local).is_some_and(|span| elapsed >= span);
            (!enabled).then_some("450 4.2.1 Mailbox disabled, not accepting messages")
        },
    },
    Behavior {
        route: "unknown",
        domain: "moved.example",
        description: "bounced softly once, now refuses all users as unknown",
        refusal: |_, _| Some("550 5.1.1 No such user here"),
    },
    Behavior {
        route: "healthy",
        domain: "healthy.example",
        description: "had a temporary fault, accepts everything now",
        refusal: |_, _| None,
    },
];

/// Returns how long after the opening a mailbox of `disabled.example` stays disabled. `None` means
/// for good. A local part gets the same result in every run.
fn disabled_for(local: &str) -> Option<Duration> {
    // FNV-1a, because the values of the standard hasher may change with a release of Rust.
    let hash = local
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, octet| {
            (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    [Some(2 * DAY), Some(6 * DAY), None][(hash % 3) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_span_of_being_disabled_applies_to_a_third_of_the_mailboxes() {
        let spans: Vec<_> = (0..3000)
            .map(|n| disabled_for(&format!("mailbox.{n}")))
            .collect();
        for span in [Some(2 * DAY), Some(6 * DAY), None] {
            let share = spans.iter().filter(|found| **found == span).count();
            assert!((900..1100).contains(&share), "{span:?}: {share} of 3000");
        }
    }
}
