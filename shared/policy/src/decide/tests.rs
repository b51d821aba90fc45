//! Tests of the verdict for each outcome, with the default table and with tables of the tests.

use super::*;

const T0: Timestamp = Timestamp::from_ms(1_763_716_200_000);
const HOUR: u64 = 3_600;

fn facts(attempt: u32) -> AttemptFacts<'static> {
    AttemptFacts {
        job: "acme/jo@example.com",
        account: "acme",
        stream: None,
        destination: "example.com",
        attempt,
        created: T0,
        last_delivery_there: None,
        confirm: Duration::ZERO,
    }
}

fn verdict(attempt: u32, reply: &str) -> Verdict {
    decide(
        &facts(attempt),
        &Outcome::Deferred(Reply::parse(reply)),
        &Table::embedded(),
        T0,
    )
    .verdict
}

fn within(delay: Duration, hours: f64, least: f64, most: f64) -> bool {
    let hours = hours * HOUR as f64;
    (hours * least..=hours * most).contains(&delay.as_secs_f64())
}

#[test]
fn the_three_schedules_are_exactly_as_promised() {
    let long = [24.0, 48.0, 72.0, 168.0];
    let short = [1.0, 4.0, 12.0, 24.0];
    for (reply, hours, standing) in [
        (
            "450 4.2.1 The account is disabled",
            long,
            Standing::Inactive,
        ),
        (
            "452 4.3.1 Insufficient system storage",
            long,
            Standing::Unavailable,
        ),
        (
            "451 4.3.2 System not accepting network messages",
            short,
            Standing::Unavailable,
        ),
    ] {
        for (attempt, hours) in (0..).zip(hours) {
            let Verdict::RetryAfter(delay) = verdict(attempt, reply) else {
                panic!("{reply}: attempt {attempt}")
            };
            assert!(
                within(delay, hours, 1.0, 1.1),
                "{reply}: attempt {attempt}: {delay:?}"
            );
        }
        let Verdict::Retire { standing: last, .. } = verdict(4, reply) else {
            panic!("{reply} has four tries")
        };
        assert_eq!(last, standing, "{reply}");
    }
}

#[test]
fn each_default_row_matches_the_documented_table() {
    use Verdict::{DropAll, DropMessage};
    let retired = |standing| Verdict::Retire {
        standing,
        host_down: false,
    };
    let host_down = Verdict::Retire {
        standing: Standing::Unavailable,
        host_down: true,
    };
    for (reply, first_hours, tries, end) in [
        ("450 4.2.1 receiving mail too quickly", 1.0, 4, DropAll),
        (
            "452 4.2.2 mailbox full",
            24.0,
            4,
            retired(Standing::Unavailable),
        ),
        (
            "450 4.2.0 try later",
            1.0,
            4,
            retired(Standing::Unavailable),
        ),
        (
            "450 4.1.1 no such user for now",
            4.0,
            3,
            retired(Standing::Inactive),
        ),
        ("451 4.7.0 temporary", 1.0, 5, DropAll),
        ("451 4.7.650 temporary", 1.0, 5, DropAll),
        ("451 4.7.1 not now", 0.5, 4, DropAll),
        ("450 4.2.0 Recipient is greylisted", 0.5, 4, DropAll),
        ("450 Postgrey says wait", 0.5, 4, DropAll),
        ("452 4.3.4 too big for now", 24.0, 1, DropMessage),
        ("451 4.5.3 too many recipients", 1.0, 3, DropMessage),
        ("450 busy", 0.5, 4, retired(Standing::Unavailable)),
        ("Es ging nicht", 0.5, 4, retired(Standing::Unavailable)),
        (
            "550 5.1.1 no such user",
            0.0,
            0,
            retired(Standing::Inactive),
        ),
        ("552 5.2.2 full", 0.0, 0, retired(Standing::Unavailable)),
        ("550 5.3.0 no", 0.0, 0, DropAll),
        ("554 5.6.0 content", 0.0, 0, DropMessage),
        ("550 no", 0.0, 0, DropMessage),
        // The text is more specific than the status, or there is only the text.
        ("450 please wait, greylisted", 0.5, 4, DropAll),
        (
            "550 5.7.1 <jo@example.com>: user unknown",
            0.0,
            0,
            retired(Standing::Inactive),
        ),
        ("No such user here", 0.0, 0, retired(Standing::Inactive)),
        (
            "550 5.1.1 user unknown, 192.0.2.1 is listed at a blocklist",
            0.0,
            0,
            DropAll,
        ),
        (
            "550 5.2.1 receiving mail at a rate that prevents more of it",
            0.0,
            0,
            DropAll,
        ),
        (
            "553 5.1.1 sender address rejected: user unknown",
            0.0,
            0,
            DropMessage,
        ),
        ("550 5.1.1 this is spam", 0.0, 0, DropMessage),
        ("450 4.1.1 your IP 192.0.2.1 is blocked", 1.0, 5, DropAll),
        (
            "554 5.4.7 delivery time expired (last transfail: 454 4.4.4 no)",
            24.0,
            3,
            host_down.clone(),
        ),
        // A mailbox that is only inactive, or whose status and text contradict each other, may be
        // used again.
        (
            "550 5.2.1 mailbox closed",
            0.0,
            0,
            retired(Standing::Inactive),
        ),
        (
            "554 the account was discontinued",
            0.0,
            0,
            retired(Standing::Inactive),
        ),
        (
            "554 the account is locked",
            0.0,
            0,
            retired(Standing::Unavailable),
        ),
        // A report of a permanent failure that names no cause; a platform's own bare words; a text
        // that cannot be read.
        (
            "Delivery to the following recipients failed: jo@example.com",
            0.0,
            0,
            retired(Standing::Unavailable),
        ),
        ("Delivery failed", 0.5, 4, retired(Standing::Unavailable)),
        (
            "Delivery to the following recipients failed: 原因不明",
            0.5,
            4,
            retired(Standing::Unavailable),
        ),
        // A report of a mail system that was deferred for days. It does not count for greylisting,
        // nor for a text that is not about the user.
        (
            "450 4.1.1 User unknown (tried for days)",
            0.0,
            0,
            retired(Standing::Unavailable),
        ),
        (
            "450 4.1.1 unverified address: user database not found (tried for days)",
            4.0,
            3,
            retired(Standing::Inactive),
        ),
        (
            "450 4.1.1 User unknown",
            4.0,
            3,
            retired(Standing::Inactive),
        ),
        (
            "450 4.1.1 Address verification in progress (tried for days)",
            4.0,
            3,
            retired(Standing::Inactive),
        ),
        (
            "450 4.1.1 unknown user, greylisted (tried for days)",
            0.5,
            4,
            DropAll,
        ),
        // Mail that is not fetched: after a month it is not sent again, and the address is retired
        // for a time.
        (
            "it was not collected within 31 days",
            0.0,
            0,
            retired(Standing::Unavailable),
        ),
        (
            "550 5.2.1 it was not collected within 31 days",
            0.0,
            0,
            retired(Standing::Unavailable),
        ),
        (
            "it was not collected within 14 days",
            24.0,
            4,
            retired(Standing::Inactive),
        ),
        (
            "450 it was not collected within 31 days",
            24.0,
            4,
            retired(Standing::Inactive),
        ),
        // Symantec's code, next to a status without meaning.
        (
            "542 5.0.0 jo@example.com Rejected",
            0.0,
            0,
            retired(Standing::Inactive),
        ),
        ("550 5.0.0 jo@example.com Rejected", 0.0, 0, DropMessage),
        (
            "550 5.2.1 the account is inactive",
            0.0,
            0,
            retired(Standing::Unavailable),
        ),
        (
            "550 5.2.1 <jo@example.com>... user unknown",
            0.0,
            0,
            retired(Standing::Unavailable),
        ),
        (
            "550 5.2.1 user unknown (in reply to RCPT TO command)",
            0.0,
            0,
            retired(Standing::Inactive),
        ),
        ("Mailbox is full", 24.0, 4, retired(Standing::Unavailable)),
        (
            "550 jo@example.com is over quota",
            0.0,
            0,
            retired(Standing::Unavailable),
        ),
        (
            "452 insufficient system storage",
            24.0,
            4,
            host_down.clone(),
        ),
        ("450 user is receiving mail too quickly", 1.0, 4, DropAll),
        ("451 too many connections", 1.0, 4, DropAll),
        // The quota of the sender says nothing about the mailbox.
        ("454 Quota of messages for today exceeded", 1.0, 4, DropAll),
        ("454 4.3.0 Sending rate exceeded", 1.0, 4, DropAll),
        ("452 4.2.2 Your sender quota is exceeded", 1.0, 4, DropAll),
        ("452 4.5.3 Hourly message quota reached", 1.0, 4, DropAll),
        ("550 5.7.0 Outgoing quota exceeded", 0.0, 0, DropAll),
        ("552 5.2.2 Relay quota exhausted", 0.0, 0, DropAll),
        (
            "450 no such user for now",
            4.0,
            3,
            retired(Standing::Inactive),
        ),
        ("Message size exceeds the limit", 0.0, 0, DropMessage),
        // The three schedules apply even if the text is about users.
        ("452 4.3.1 user unknown", 24.0, 4, host_down.clone()),
        ("451 4.3.2 mailbox full", 1.0, 4, host_down.clone()),
        (
            "450 4.2.1 user unknown",
            24.0,
            4,
            retired(Standing::Inactive),
        ),
        (
            "450 5.1.1 code and status contradict each other",
            4.0,
            3,
            retired(Standing::Inactive),
        ),
        (
            "550 4.2.2 code and status contradict each other",
            24.0,
            4,
            retired(Standing::Unavailable),
        ),
    ] {
        if tries > 0 {
            let Verdict::RetryAfter(delay) = verdict(0, reply) else {
                panic!("{reply} is worth a retry")
            };
            assert!(within(delay, first_hours, 0.9, 1.1), "{reply}: {delay:?}");
            assert!(
                matches!(verdict(tries - 1, reply), Verdict::RetryAfter(_)),
                "{reply} has {tries} tries"
            );
        }
        assert_eq!(verdict(tries, reply), end, "{reply} after {tries} tries");
    }
}

#[test]
fn rows_of_scope_host_are_never_early() {
    let table = Table::embedded();
    for row in table.rows().iter().filter(|row| row.scope == Scope::Host) {
        for n in 0..200 {
            let moved = row.jitter.apply(
                Duration::from_secs(HOUR),
                &format!("acme/{n}@example.com"),
                1,
            );
            assert!(moved >= Duration::from_secs(HOUR), "{}", row.name);
        }
    }
}

#[test]
fn a_hint_replaces_or_lengthens_the_first_delay_within_bounds() {
    for (attempt, reply, minutes) in [
        (0, "451 4.7.1 Greylisted, try again in 300 seconds", 5.0),
        (0, "451 4.7.1 Greylisted, try again in 5 seconds", 1.0),
        (
            0,
            "451 4.7.1 Greylisted, try again in 500 hours",
            24.0 * 60.0,
        ),
        (1, "451 4.7.1 Greylisted, try again in 300 seconds", 60.0),
        (0, "421 4.4.2 busy, retry in 2 hours", 120.0),
        (0, "421 4.4.2 busy, retry in 2 minutes", 60.0),
        (0, "452 4.3.1 full, retry in 26 hours", 24.0 * 60.0),
    ] {
        for n in 0..50 {
            let job = format!("acme/{n}@example.com");
            let facts = AttemptFacts {
                job: &job,
                ..facts(attempt)
            };
            let outcome = Outcome::Deferred(Reply::parse(reply));
            let Verdict::RetryAfter(delay) =
                decide(&facts, &outcome, &Table::embedded(), T0).verdict
            else {
                panic!("{reply}")
            };
            // Every delay here is a time that a server asked for, except the second one of
            // greylisting.
            let least = if attempt == 0 { 1.0 } else { 0.9 };
            assert!(
                within(delay, minutes / 60.0, least, 1.1),
                "{reply}: {delay:?}"
            );
        }
    }
}

#[test]
fn a_separate_retry_after_lengthens_any_delay_within_bounds() {
    for (attempt, reply, hours) in [
        (1, "450 4.2.0 retry-after: 36000s; later", 10.0),
        (2, "450 4.2.0 retry-after: 86400s; later", 24.0),
        (1, "450 4.2.0 retry-after: 999999s; later", 24.0),
        (1, "450 4.2.0 retry-after: 60s; later", 4.0),
        (1, "451 4.7.1 retry-after: 60s; greylisted", 1.0),
        (1, "451 4.7.1 retry-after: 7200s; greylisted", 2.0),
        (1, "450 4.2.0 try again in 10 hours", 4.0),
        // The three schedules are never changed.
        (1, "451 4.3.2 retry-after: 36000s; later", 4.0),
    ] {
        let Verdict::RetryAfter(delay) = verdict(attempt, reply) else {
            panic!("{reply}")
        };
        assert!(
            within(delay, hours, 0.9, 1.1),
            "{attempt}, {reply}: {delay:?}"
        );
    }
}

#[test]
fn trouble_on_our_side_uses_up_no_attempt_and_ends_by_age() {
    let fault = Fault::ours(FaultKind::Connect, "refused".to_owned());
    let outcome = Outcome::Unreachable(fault.clone());
    let table = Table::embedded();
    for attempt in [1, 40] {
        assert_eq!(
            decide(&facts(attempt), &outcome, &table, T0).verdict,
            Verdict::Hold(table.hold)
        );
    }
    assert_eq!(
        decide(&facts(1), &outcome, &table, T0.plus(table.max_age)).verdict,
        Verdict::DropAll
    );
    for (text, seconds) in [
        ("retry-after: 7200s; busy", 7_200),
        ("retry-after: 300s; busy", 300),
        (
            "rcpt was refused: 421 4.7.0 busy, try again in 20 minutes",
            1_200,
        ),
        (
            "rcpt was refused: 421 4.7.0 busy, try again in 5 minutes",
            300,
        ),
        (
            "rcpt was refused: 421 4.7.0 busy, try again in 1 second",
            60,
        ),
    ] {
        let busy = Outcome::Unreachable(Fault {
            text: text.to_owned(),
            ..fault.clone()
        });
        assert_eq!(
            decide(&facts(1), &busy, &table, T0).verdict,
            Verdict::Hold(Duration::from_secs(seconds)),
            "{text}"
        );
    }

    let unanswered = Outcome::Unreachable(Fault {
        kind: FaultKind::Unanswered,
        ..fault.clone()
    });
    assert!(
        matches!(
            decide(&facts(1), &unanswered, &table, T0).verdict,
            Verdict::RetryAfter(_)
        ),
        "an attempt without an answer counts"
    );
    assert_eq!(
        decide(&facts(4), &unanswered, &table, T0).verdict,
        Verdict::DropAll,
        "an attempt without an answer never counts against the address"
    );

    let theirs = Outcome::Unreachable(Fault {
        side: Side::Theirs,
        ..fault
    });
    assert!(matches!(
        decide(&facts(1), &theirs, &table, T0).verdict,
        Verdict::RetryAfter(_)
    ));
    assert!(matches!(
        verdict(1, "450 4.7.26 route held"),
        Verdict::Hold(_)
    ));
}

#[test]
fn a_job_past_its_maximum_age_ends_as_if_its_last_attempt_had_failed() {
    let reply = Outcome::Deferred(Reply::parse("450 4.2.1 disabled"));
    let table = Table::embedded();
    let late = T0.plus(table.max_age);
    let verdict = decide(&facts(1), &reply, &table, late).verdict;
    assert_eq!(
        verdict,
        Verdict::Retire {
            standing: Standing::Inactive,
            host_down: false
        }
    );
}

#[test]
fn a_message_that_a_relay_accepted_waits_as_long_as_its_route_requires() {
    let accepted = Outcome::Accepted(Reply::parse("250 2.0.0 queued"));
    let table = Table::embedded();
    assert_eq!(
        decide(&facts(1), &accepted, &table, T0).verdict,
        Verdict::Close
    );
    let day = Duration::from_secs(24 * HOUR);
    let waiting = AttemptFacts {
        confirm: day,
        ..facts(1)
    };
    assert_eq!(
        decide(&waiting, &accepted, &table, T0).verdict,
        Verdict::Confirm(day)
    );
    let delivered = Outcome::Delivered(Reply::parse("250 2.0.0 ok"));
    assert_eq!(
        decide(&waiting, &delivered, &table, T0).verdict,
        Verdict::Close
    );
}

#[test]
fn a_dead_host_never_makes_an_address_inactive() {
    let table = Table::with_file(
        "t",
        "[[row]]\nname = \"h\"\nstatus = \"4.3.9\"\nscope = \"host\"\n\
         delays = []\nfinal = \"inactive\"",
    )
    .unwrap();
    let reply = Outcome::Deferred(Reply::parse("451 4.3.9 x"));
    let before = Some(Timestamp::from_ms(T0.ms() - 1));
    for (last_delivery_there, standing, host_down) in [
        (None, Standing::Unavailable, true),
        (before, Standing::Unavailable, true),
        (Some(T0), Standing::Inactive, false),
    ] {
        let facts = AttemptFacts {
            last_delivery_there,
            ..facts(1)
        };
        assert_eq!(
            decide(&facts, &reply, &table, T0).verdict,
            Verdict::Retire {
                standing,
                host_down
            }
        );
    }
}
