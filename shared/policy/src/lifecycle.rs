//! Turns a verdict about one message into its consequences: what becomes of the message and its
//! job, and which events describe that. Pure. An attempt uses it for the outcome of a message.
//! Intake uses it for the bounce of a message that a relay had accepted.

use std::time::Duration;

use domain::clock::Timestamp;
use domain::event::{DropReason, Event, EventKind};
use domain::evidence::Evidence;
use domain::job::{End, Head};
use domain::outcome::{FaultKind, Outcome};
use serde_json::Map;

use crate::decide::{Decision, Verdict};

/// What becomes of a message and its job, with the events that describe it.
#[derive(Debug)]
pub enum Conclusion {
    /// The message was delivered. The next one is tried.
    Delivered(Event),
    /// A relay accepted the message, which waits this long for a bounce.
    Accepted(Duration, Event),
    /// The message is dropped. The next one is tried.
    Dropped(Event),
    /// The job waits this long for its next attempt. [`record_failure`] notes the failure in its
    /// head.
    Waits(Duration, Event),
    /// The message and all that wait with it are dropped. The event is about the failure.
    GivenUp(Event),
    /// The address leaves the active list, and all its messages are dropped.
    Retired(Box<Retirement>),
}

/// How an address is retired.
#[derive(Debug)]
pub struct Retirement {
    /// The event about the failure.
    pub failed: Event,
    /// The event about the address. It comes last.
    pub retired: Event,
    /// How the job ends.
    pub end: End,
}

/// Where the knowledge about a failure comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// When it happened.
    pub at: Timestamp,
    /// How we learned of it, as in [`Evidence`].
    pub source: &'a str,
    /// The host that refused the mail, if it is known.
    pub remote_mta: Option<&'a str>,
}

/// Returns the consequences of a verdict. `about` is an event about the message, with all that is
/// known about the attempt. Its kind and reason are set here.
pub fn conclude(
    decision: &Decision<'_>,
    outcome: &Outcome,
    about: Event,
    origin: Origin<'_>,
) -> Conclusion {
    let event = |about, kind, reason: Option<&str>| Event {
        kind,
        reason: reason.map(str::to_owned),
        ..about
    };
    let deferred = |about, reason| event(about, EventKind::AttemptDeferred, reason);
    match &decision.verdict {
        Verdict::Close => Conclusion::Delivered(event(about, EventKind::MessageDelivered, None)),
        Verdict::Confirm(delay) => {
            Conclusion::Accepted(*delay, event(about, EventKind::MessageAccepted, None))
        }
        Verdict::DropMessage => {
            let reason = match outcome {
                Outcome::Unreadable(_) => DropReason::ContentMissing,
                _ => DropReason::GivenUp,
            };
            let reason = Some(reason.as_str());
            Conclusion::Dropped(event(about, EventKind::MessageDropped, reason))
        }
        Verdict::RetryAfter(delay) => {
            let reason = is_unanswered(outcome).then_some("unknown");
            Conclusion::Waits(*delay, deferred(about, reason))
        }
        Verdict::Hold(delay) => Conclusion::Waits(*delay, deferred(about, Some("held"))),
        Verdict::DropAll => Conclusion::GivenUp(deferred(about, None)),
        Verdict::Retire {
            standing,
            host_down,
        } => Conclusion::Retired(Box::new(Retirement {
            end: End::Retire {
                standing: *standing,
                policy: about.policy.clone().unwrap_or_default(),
                host_down: *host_down,
                evidence: Box::new(evidence(&about, origin)),
            },
            failed: deferred(about.clone(), None),
            retired: Event {
                message: None,
                late_ms: None,
                metadata: Map::new(),
                source: Some(origin.source.to_owned()),
                remote_mta: origin.remote_mta.map(str::to_owned),
                ..event(about, EventKind::AddressRetired, None)
            },
        })),
    }
}

/// Returns what the event about a failure shows of it, as evidence.
fn evidence(about: &Event, origin: Origin<'_>) -> Evidence {
    let Origin {
        at,
        source,
        remote_mta,
    } = origin;
    let reply = about.reply.as_deref().unwrap_or_default();
    let attempt = about.attempt.unwrap_or_default();
    Evidence::new(attempt, at, source, about.status, remote_mta, reply)
}

/// Notes a failure in the head of its job, which waits for its next attempt. `number` is the number
/// of the attempt. A failure that does not count leaves the status and the policy row as they are.
pub fn record_failure(head: &mut Head, decision: &Decision<'_>, number: u32, now: Timestamp) {
    head.dead_route = None;
    head.held = matches!(decision.verdict, Verdict::Hold(_));
    head.record_failed_attempt(number, &decision.reply.to_string(), now);
    if head.held {
        return;
    }
    head.status = decision.reply.status;
    if let Some(row) = decision.row {
        head.policy.clone_from(&row.name);
    }
}

/// Whether the message was sent whole and no reply came, so that it may have been accepted.
pub fn is_unanswered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unreachable(fault) if fault.kind == FaultKind::Unanswered)
}

#[cfg(test)]
mod tests {
    use domain::destination::Destination;
    use domain::outcome::Fault;
    use domain::reply::Reply;
    use domain::standing::Standing;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    const ORIGIN: Origin<'static> = Origin {
        at: Timestamp::from_ms(1_763_716_200_000),
        source: "dsn",
        remote_mta: Some("mx.example.com"),
    };

    fn about() -> Event {
        let mut about = Event::about(
            EventKind::AttemptDeferred,
            "acme/jo@example.com",
            &Destination::named("example.com"),
        );
        about.message = Some("m1".to_owned());
        about.attempt = Some(2);
        about.late_ms = Some(7);
        about.policy = Some("mailbox-disabled".to_owned());
        about
    }

    fn decision(verdict: Verdict) -> Decision<'static> {
        Decision {
            verdict,
            row: None,
            reply: Reply::parse("450 4.2.1 mailbox disabled"),
        }
    }

    fn outcome() -> Outcome {
        Outcome::Deferred(Reply::parse("450 4.2.1 mailbox disabled"))
    }

    #[test]
    fn each_verdict_has_its_event_and_reason() {
        use EventKind::{AttemptDeferred, MessageAccepted, MessageDelivered, MessageDropped};
        let unanswered = Outcome::Unreachable(Fault::ours(FaultKind::Unanswered, String::new()));
        let unreadable = Outcome::Unreadable("no content".to_owned());
        for (verdict, outcome, kind, reason) in [
            (Verdict::Close, outcome(), MessageDelivered, None),
            (Verdict::Confirm(HOUR), outcome(), MessageAccepted, None),
            (
                Verdict::DropMessage,
                outcome(),
                MessageDropped,
                Some("given_up"),
            ),
            (
                Verdict::DropMessage,
                unreadable,
                MessageDropped,
                Some("content_missing"),
            ),
            (Verdict::RetryAfter(HOUR), outcome(), AttemptDeferred, None),
            (
                Verdict::RetryAfter(HOUR),
                unanswered,
                AttemptDeferred,
                Some("unknown"),
            ),
            (
                Verdict::Hold(HOUR),
                outcome(),
                AttemptDeferred,
                Some("held"),
            ),
            (Verdict::DropAll, outcome(), AttemptDeferred, None),
        ] {
            let event = match conclude(&decision(verdict.clone()), &outcome, about(), ORIGIN) {
                Conclusion::Delivered(event)
                | Conclusion::Dropped(event)
                | Conclusion::GivenUp(event) => event,
                Conclusion::Accepted(delay, event) | Conclusion::Waits(delay, event) => {
                    assert_eq!(delay, HOUR);
                    event
                }
                retired @ Conclusion::Retired(_) => panic!("{retired:?}"),
            };
            let found = (event.kind, event.reason.as_deref());
            assert_eq!(found, (kind, reason), "{verdict:?}");
            assert_eq!(event.message.as_deref(), Some("m1"), "{verdict:?}");
        }
    }

    #[test]
    fn the_event_about_a_retired_address_names_no_message() {
        let verdict = Verdict::Retire {
            standing: Standing::Inactive,
            host_down: true,
        };
        let conclusion = conclude(&decision(verdict), &outcome(), about(), ORIGIN);
        let Conclusion::Retired(retirement) = conclusion else {
            panic!("{conclusion:?}");
        };
        let Retirement {
            failed,
            retired,
            end,
        } = *retirement;
        assert_eq!(failed.message.as_deref(), Some("m1"));
        assert_eq!(failed.kind, EventKind::AttemptDeferred);
        assert_eq!((retired.message, retired.late_ms), (None, None));
        assert_eq!(retired.kind, EventKind::AddressRetired);
        assert_eq!(retired.attempt, Some(2));
        let End::Retire {
            standing,
            policy,
            host_down,
            evidence,
        } = end
        else {
            panic!("{end:?}");
        };
        assert_eq!((standing, host_down), (Standing::Inactive, true));
        assert_eq!(policy, "mailbox-disabled");
        assert_eq!(evidence.attempt, Some(2));
        assert_eq!((evidence.at, &*evidence.source), (ORIGIN.at, "dsn"));
        assert_eq!(evidence.remote_mta.as_deref(), ORIGIN.remote_mta);
        let event = (retired.source.as_deref(), retired.remote_mta.as_deref());
        assert_eq!(event, (Some("dsn"), ORIGIN.remote_mta));
        assert_eq!((failed.source, failed.remote_mta), (None, None));
    }
}
