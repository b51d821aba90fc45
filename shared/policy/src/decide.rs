//! What policy makes of a job and an outcome. Ingest asks it too, because a bounce is the outcome of attempt 0.

use std::time::Duration;

use classify::hint::{asked, asking, hint};
use domain::clock::Timestamp;
use domain::outcome::{Fault, FaultKind, Outcome, Side};
use domain::reply::Reply;
use domain::standing::Standing;

use crate::row::{Final, HintUse, Row, Scope};
use crate::table::Table;

/// What a job's outcome leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The mail got through: the job ends.
    Close,
    /// The job waits this long from now for its next attempt.
    RetryAfter(Duration),
    /// This message is given up; the next one is the probe.
    DropMessage,
    /// All messages are given up; the address stays as it is.
    DropAll,
    /// The address leaves the active list, and all its messages are given up.
    Retire {
        /// Where it goes.
        standing: Standing,
        /// Whether nobody at that destination got through, so that being unavailable again and again must not make
        /// the address inactive: it is the host that is dead.
        host_dead: bool,
    },
    /// A relay took the message: the job waits this long from now for a bounce, and silence closes it as delivered.
    Confirm(Duration),
    /// The job waits this long from now and the attempt does not count: the trouble is not the address's.
    Hold(Duration),
}

/// What policy looks at of a job.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The job's id, for its own share of the jitter.
    pub job: &'a str,
    /// The tenant.
    pub account: &'a str,
    /// The kind of mail that was tried.
    pub stream: Option<&'a str>,
    /// Where it was tried.
    pub destination: &'a str,
    /// The number of the attempt that ended so; the platform's own was 0.
    pub attempt: u32,
    /// When the job came to be.
    pub created: Timestamp,
    /// When somebody at that destination last got through, as far as is known.
    pub delivered_there: Option<Timestamp>,
    /// How long a message that a relay took waits for a bounce; zero: it counts as delivered at once.
    pub confirm: Duration,
}

/// The verdict, and what it rests on.
#[derive(Clone, Debug)]
pub struct Decision<'t> {
    /// What is to be done.
    pub verdict: Verdict,
    /// The row that says so; none where no reply of the recipient's mail system was had.
    pub row: Option<&'t Row>,
    /// The outcome as a reply; for faults one that stands for them.
    pub reply: Reply,
}

/// Judges the outcome of one attempt. Pure: the same input always has the same verdict.
pub fn decide<'t>(case: &Case<'_>, outcome: &Outcome, table: &'t Table, now: Timestamp) -> Decision<'t> {
    let without_row = |verdict, reply| Decision { verdict, row: None, reply };
    let reply = match outcome {
        Outcome::Accepted(reply) if !case.confirm.is_zero() => {
            return without_row(Verdict::Confirm(case.confirm), reply.clone());
        }
        Outcome::Delivered(reply) | Outcome::Accepted(reply) => return without_row(Verdict::Close, reply.clone()),
        Outcome::Unreadable(why) => {
            let reply = Reply { code: None, status: None, text: why.clone() };
            return without_row(Verdict::DropMessage, reply);
        }
        Outcome::Deferred(reply) | Outcome::Refused(reply) => reply.clone(),
        Outcome::Unreachable(fault) => Reply { code: None, status: Some(fault.kind.status()), text: text_of(fault) },
    };
    if matches!(outcome, Outcome::Unreachable(fault) if fault.side == Side::Ours && fault.kind != FaultKind::Unanswered)
    {
        // Who is busy, be it our relay, may say for how long.
        let hold = bounded_hint(&reply, table).map_or(table.hold, |hint| hint.max(table.hold));
        return without_row(hold_or_end(case, hold, Final::Message, table, now), reply);
    }
    let row = table.row(&reply, case.account, case.stream, case.destination);
    if matches!(outcome, Outcome::Unreachable(fault) if fault.side == Side::Ours) {
        // The relay may have taken the message: each such try counts, so that it cannot be sent without end. But nothing
        // of this is said about the address.
        let verdict = match judge(case, row, &reply, || bounded_hint(&reply, table), table, now) {
            Verdict::RetryAfter(delay) => Verdict::RetryAfter(delay),
            _ => Verdict::DropAll,
        };
        return Decision { verdict, row: Some(row), reply };
    }
    let verdict = judge(case, row, &reply, || bounded_hint(&reply, table), table, now);
    Decision { verdict, row: Some(row), reply }
}

/// Judges a reply of the recipient's mail system whose row is known. `hint` is the time that it asks for, within bounds.
pub(crate) fn judge(
    case: &Case<'_>,
    row: &Row,
    reply: &Reply,
    hint: impl FnOnce() -> Option<Duration>,
    table: &Table,
    now: Timestamp,
) -> Verdict {
    let step = usize::try_from(case.attempt).unwrap_or(usize::MAX);
    if row.hold {
        let delay = row.delays[step.min(row.delays.len() - 1)];
        return hold_or_end(case, row.jitter.apply(delay, case.job, case.attempt), row.end, table, now);
    }
    let overdue = now.since(case.created) >= table.max_age;
    match row.delays.get(step).filter(|_| !overdue) {
        Some(&delay) => {
            let hinted = if step == 0 { hinted(delay, row, hint) } else { asked_for(delay, row, reply, table) };
            // Whoever names a time means that it is not to be before.
            let jitter = if hinted.is_some() { row.jitter.never_early() } else { row.jitter };
            Verdict::RetryAfter(jitter.apply(hinted.unwrap_or(delay), case.job, case.attempt))
        }
        None if row.scope == Scope::Message => Verdict::DropMessage,
        None => used_up(case, row),
    }
}

/// A wait that spends no attempt has no last attempt either, so the job's age ends it.
fn hold_or_end(case: &Case<'_>, delay: Duration, end: Final, table: &Table, now: Timestamp) -> Verdict {
    match (now.since(case.created) < table.max_age, end) {
        (true, _) => Verdict::Hold(delay),
        (false, Final::Message) => Verdict::DropAll,
        (false, end) => Verdict::Retire { standing: end.standing(), host_dead: false },
    }
}

/// The first delay that a hint in the reply asks for, where the row heeds it.
fn hinted(delay: Duration, row: &Row, hint: impl FnOnce() -> Option<Duration>) -> Option<Duration> {
    match row.hint {
        HintUse::Ignore => None,
        HintUse::Lengthen => hint().filter(|hint| *hint > delay),
        HintUse::Replace => hint(),
    }
}

/// What is said of a fault, with what the peer asked for beside it where [`asked`] looks for it.
fn text_of(fault: &Fault) -> String {
    let Some(span) = asked(&fault.text) else { return fault.to_string() };
    let (_, rest) = fault.text.split_once("; ").unwrap_or_default();
    let plain = Fault { text: rest.to_owned(), ..fault.clone() };
    asking(&plain.to_string(), Some(span.as_secs()))
}

/// A later delay that the peer asks for beside its reply, where the row heeds hints. What the text alone says is not heeded
/// any more: whoever says "in 5 minutes" each time means nothing by it. Nor does a schedule become shorter than it is.
fn asked_for(delay: Duration, row: &Row, reply: &Reply, table: &Table) -> Option<Duration> {
    let heeds = row.hint != HintUse::Ignore;
    let asked = asked(&reply.text).filter(|_| heeds).map(|asked| bounded(asked, table));
    asked.filter(|asked| *asked > delay)
}

pub(crate) fn bounded_hint(reply: &Reply, table: &Table) -> Option<Duration> {
    hint(&reply.text).map(|hint| bounded(hint, table))
}

fn bounded(span: Duration, table: &Table) -> Duration {
    let (least, most) = table.hint_bounds;
    span.clamp(least, most)
}

fn used_up(case: &Case<'_>, row: &Row) -> Verdict {
    let host_dead = row.scope == Scope::Host && case.delivered_there.is_none_or(|at| at < case.created);
    match row.end {
        Final::Message => Verdict::DropAll,
        Final::Inactive if host_dead => Verdict::Retire { standing: Standing::Unavailable, host_dead },
        end => Verdict::Retire { standing: end.standing(), host_dead },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::from_ms(1_763_716_200_000);
    const HOUR: u64 = 3_600;

    fn case(attempt: u32) -> Case<'static> {
        Case {
            job: "acme/jo@example.com",
            account: "acme",
            stream: None,
            destination: "example.com",
            attempt,
            created: T0,
            delivered_there: None,
            confirm: Duration::ZERO,
        }
    }

    fn verdict(attempt: u32, reply: &str) -> Verdict {
        decide(&case(attempt), &Outcome::Deferred(Reply::parse(reply)), &Table::embedded(), T0).verdict
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
            ("450 4.2.1 The account is disabled", long, Standing::Inactive),
            ("452 4.3.1 Insufficient system storage", long, Standing::Unavailable),
            ("451 4.3.2 System not accepting network messages", short, Standing::Unavailable),
        ] {
            for (attempt, hours) in (0..).zip(hours) {
                let Verdict::RetryAfter(delay) = verdict(attempt, reply) else { panic!("{reply}: attempt {attempt}") };
                assert!(within(delay, hours, 1.0, 1.1), "{reply}: attempt {attempt}: {delay:?}");
            }
            let Verdict::Retire { standing: last, .. } = verdict(4, reply) else { panic!("{reply} has four tries") };
            assert_eq!(last, standing, "{reply}");
        }
    }

    #[test]
    fn each_default_row_does_what_the_table_in_the_documents_says() {
        use Verdict::{DropAll, DropMessage};
        let retired = |standing| Verdict::Retire { standing, host_dead: false };
        let host_dead = Verdict::Retire { standing: Standing::Unavailable, host_dead: true };
        for (reply, first_hours, tries, end) in [
            ("450 4.2.1 receiving mail too quickly", 1.0, 4, DropAll),
            ("452 4.2.2 mailbox full", 24.0, 4, retired(Standing::Unavailable)),
            ("450 4.2.0 try later", 1.0, 4, retired(Standing::Unavailable)),
            ("450 4.1.1 no such user for now", 4.0, 3, retired(Standing::Inactive)),
            ("451 4.7.0 temporary", 1.0, 5, DropAll),
            ("451 4.7.650 temporary", 1.0, 5, DropAll),
            ("451 4.7.1 not now", 0.5, 4, DropAll),
            ("450 4.2.0 Recipient is greylisted", 0.5, 4, DropAll),
            ("450 Postgrey says wait", 0.5, 4, DropAll),
            ("452 4.3.4 too big for now", 24.0, 1, DropMessage),
            ("451 4.5.3 too many recipients", 1.0, 3, DropMessage),
            ("450 busy", 0.5, 4, retired(Standing::Unavailable)),
            ("Es ging nicht", 0.5, 4, retired(Standing::Unavailable)),
            ("550 5.1.1 no such user", 0.0, 0, retired(Standing::Inactive)),
            ("552 5.2.2 full", 0.0, 0, retired(Standing::Unavailable)),
            ("550 5.3.0 no", 0.0, 0, DropAll),
            ("554 5.6.0 content", 0.0, 0, DropMessage),
            ("550 no", 0.0, 0, DropMessage),
            // The text knows better, or there is nothing but the text.
            ("450 please wait, greylisted", 0.5, 4, DropAll),
            ("550 5.7.1 <jo@example.com>: user unknown", 0.0, 0, retired(Standing::Inactive)),
            ("No such user here", 0.0, 0, retired(Standing::Inactive)),
            ("550 5.1.1 user unknown, 192.0.2.1 is listed at a blocklist", 0.0, 0, DropAll),
            ("550 5.2.1 receiving mail at a rate that prevents more of it", 0.0, 0, DropAll),
            ("553 5.1.1 sender address rejected: user unknown", 0.0, 0, DropMessage),
            ("550 5.1.1 this is spam", 0.0, 0, DropMessage),
            ("450 4.1.1 your IP 192.0.2.1 is blocked", 1.0, 5, DropAll),
            ("554 5.4.7 delivery time expired (last transfail: 454 4.4.4 no)", 24.0, 3, host_dead.clone()),
            // A mailbox that sleeps, or of which status and text contradict each other, may wake.
            ("550 5.2.1 mailbox closed", 0.0, 0, retired(Standing::Inactive)),
            ("554 the account was discontinued", 0.0, 0, retired(Standing::Inactive)),
            ("554 the account is locked", 0.0, 0, retired(Standing::Unavailable)),
            // A report that has given up and blames nothing; a platform's own bare words, and what we cannot read.
            ("Delivery to the following recipients failed: jo@example.com", 0.0, 0, retired(Standing::Unavailable)),
            ("Delivery failed", 0.5, 4, retired(Standing::Unavailable)),
            ("Delivery to the following recipients failed: 原因不明", 0.5, 4, retired(Standing::Unavailable)),
            // A report of a mail system that was told so for days. Greylisting, and what is not said of the user, is no such thing.
            ("450 4.1.1 User unknown (tried for days)", 0.0, 0, retired(Standing::Unavailable)),
            (
                "450 4.1.1 unverified address: user database not found (tried for days)",
                4.0,
                3,
                retired(Standing::Inactive),
            ),
            ("450 4.1.1 User unknown", 4.0, 3, retired(Standing::Inactive)),
            ("450 4.1.1 Address verification in progress (tried for days)", 4.0, 3, retired(Standing::Inactive)),
            ("450 4.1.1 unknown user, greylisted (tried for days)", 0.5, 4, DropAll),
            // Mail that nobody fetches: after a month nothing is sent again, and the address heals.
            ("it was not collected within 31 days", 0.0, 0, retired(Standing::Unavailable)),
            ("550 5.2.1 it was not collected within 31 days", 0.0, 0, retired(Standing::Unavailable)),
            ("it was not collected within 14 days", 24.0, 4, retired(Standing::Inactive)),
            ("450 it was not collected within 31 days", 24.0, 4, retired(Standing::Inactive)),
            // Symantec's code beside a status that says nothing.
            ("542 5.0.0 jo@example.com Rejected", 0.0, 0, retired(Standing::Inactive)),
            ("550 5.0.0 jo@example.com Rejected", 0.0, 0, DropMessage),
            ("550 5.2.1 the account is inactive", 0.0, 0, retired(Standing::Unavailable)),
            ("550 5.2.1 <jo@example.com>... user unknown", 0.0, 0, retired(Standing::Unavailable)),
            ("550 5.2.1 user unknown (in reply to RCPT TO command)", 0.0, 0, retired(Standing::Inactive)),
            ("Mailbox is full", 24.0, 4, retired(Standing::Unavailable)),
            ("550 jo@example.com is over quota", 0.0, 0, retired(Standing::Unavailable)),
            ("452 insufficient system storage", 24.0, 4, host_dead.clone()),
            ("450 user is receiving mail too quickly", 1.0, 4, DropAll),
            ("451 too many connections", 1.0, 4, DropAll),
            ("450 no such user for now", 4.0, 3, retired(Standing::Inactive)),
            ("Message size exceeds the limit", 0.0, 0, DropMessage),
            // The three schedules hold whatever the text says of users.
            ("452 4.3.1 user unknown", 24.0, 4, host_dead.clone()),
            ("451 4.3.2 mailbox full", 1.0, 4, host_dead.clone()),
            ("450 4.2.1 user unknown", 24.0, 4, retired(Standing::Inactive)),
            ("450 5.1.1 code and status contradict each other", 4.0, 3, retired(Standing::Inactive)),
            ("550 4.2.2 code and status contradict each other", 24.0, 4, retired(Standing::Unavailable)),
        ] {
            if tries > 0 {
                let Verdict::RetryAfter(delay) = verdict(0, reply) else { panic!("{reply} is worth a retry") };
                assert!(within(delay, first_hours, 0.9, 1.1), "{reply}: {delay:?}");
                assert!(matches!(verdict(tries - 1, reply), Verdict::RetryAfter(_)), "{reply} has {tries} tries");
            }
            assert_eq!(verdict(tries, reply), end, "{reply} after {tries} tries");
        }
    }

    #[test]
    fn host_rows_are_never_early() {
        let table = Table::embedded();
        for row in table.rows().iter().filter(|row| row.scope == Scope::Host) {
            for n in 0..200 {
                let moved = row.jitter.apply(Duration::from_secs(HOUR), &format!("acme/{n}@example.com"), 1);
                assert!(moved >= Duration::from_secs(HOUR), "{}", row.name);
            }
        }
    }

    #[test]
    fn a_hint_replaces_or_lengthens_the_first_delay_within_bounds() {
        for (attempt, reply, minutes) in [
            (0, "451 4.7.1 Greylisted, try again in 300 seconds", 5.0),
            (0, "451 4.7.1 Greylisted, try again in 5 seconds", 1.0),
            (0, "451 4.7.1 Greylisted, try again in 500 hours", 24.0 * 60.0),
            (1, "451 4.7.1 Greylisted, try again in 300 seconds", 60.0),
            (0, "421 4.4.2 busy, retry in 2 hours", 120.0),
            (0, "421 4.4.2 busy, retry in 2 minutes", 60.0),
            (0, "452 4.3.1 full, retry in 26 hours", 24.0 * 60.0),
        ] {
            for n in 0..50 {
                let job = format!("acme/{n}@example.com");
                let case = Case { job: &job, ..case(attempt) };
                let outcome = Outcome::Deferred(Reply::parse(reply));
                let Verdict::RetryAfter(delay) = decide(&case, &outcome, &Table::embedded(), T0).verdict else {
                    panic!("{reply}")
                };
                // Only the second delay of greylisting is not about a time that somebody named.
                let least = if attempt == 0 { 1.0 } else { 0.9 };
                assert!(within(delay, minutes / 60.0, least, 1.1), "{reply}: {delay:?}");
            }
        }
    }

    #[test]
    fn what_a_peer_asks_for_beside_its_reply_lengthens_any_delay_within_bounds() {
        for (attempt, reply, hours) in [
            (1, "450 4.2.0 retry-after: 36000s; later", 10.0),
            (2, "450 4.2.0 retry-after: 86400s; later", 24.0),
            (1, "450 4.2.0 retry-after: 999999s; later", 24.0),
            (1, "450 4.2.0 retry-after: 60s; later", 4.0),
            (1, "451 4.7.1 retry-after: 60s; greylisted", 1.0),
            (1, "451 4.7.1 retry-after: 7200s; greylisted", 2.0),
            (1, "450 4.2.0 try again in 10 hours", 4.0),
            // The three schedules are exactly so.
            (1, "451 4.3.2 retry-after: 36000s; later", 4.0),
        ] {
            let Verdict::RetryAfter(delay) = verdict(attempt, reply) else { panic!("{reply}") };
            assert!(within(delay, hours, 0.9, 1.1), "{attempt}, {reply}: {delay:?}");
        }
    }

    #[test]
    fn our_own_trouble_spends_no_attempt_and_ends_by_age() {
        let fault = Fault::ours(FaultKind::Connect, "refused".to_owned());
        let outcome = Outcome::Unreachable(fault.clone());
        let table = Table::embedded();
        for attempt in [1, 40] {
            assert_eq!(decide(&case(attempt), &outcome, &table, T0).verdict, Verdict::Hold(table.hold));
        }
        assert_eq!(decide(&case(1), &outcome, &table, T0.plus(table.max_age)).verdict, Verdict::DropAll);
        let busy = Outcome::Unreachable(Fault { text: "retry-after: 7200s; busy".to_owned(), ..fault.clone() });
        assert_eq!(decide(&case(1), &busy, &table, T0).verdict, Verdict::Hold(Duration::from_secs(2 * HOUR)));

        let unanswered = Outcome::Unreachable(Fault { kind: FaultKind::Unanswered, ..fault.clone() });
        assert!(matches!(decide(&case(1), &unanswered, &table, T0).verdict, Verdict::RetryAfter(_)), "it counts");
        assert_eq!(
            decide(&case(4), &unanswered, &table, T0).verdict,
            Verdict::DropAll,
            "and never against the address"
        );

        let theirs = Outcome::Unreachable(Fault { side: Side::Theirs, ..fault });
        assert!(matches!(decide(&case(1), &theirs, &table, T0).verdict, Verdict::RetryAfter(_)));
        assert!(matches!(verdict(1, "450 4.7.26 route held"), Verdict::Hold(_)));
    }

    #[test]
    fn a_job_past_its_age_ends_as_if_its_last_attempt_had_failed() {
        let reply = Outcome::Deferred(Reply::parse("450 4.2.1 disabled"));
        let table = Table::embedded();
        let late = T0.plus(table.max_age);
        let verdict = decide(&case(1), &reply, &table, late).verdict;
        assert_eq!(verdict, Verdict::Retire { standing: Standing::Inactive, host_dead: false });
    }

    #[test]
    fn what_a_relay_took_waits_for_as_long_as_its_route_says() {
        let accepted = Outcome::Accepted(Reply::parse("250 2.0.0 queued"));
        let table = Table::embedded();
        assert_eq!(decide(&case(1), &accepted, &table, T0).verdict, Verdict::Close);
        let day = Duration::from_secs(24 * HOUR);
        let waiting = Case { confirm: day, ..case(1) };
        assert_eq!(decide(&waiting, &accepted, &table, T0).verdict, Verdict::Confirm(day));
        let delivered = Outcome::Delivered(Reply::parse("250 2.0.0 ok"));
        assert_eq!(decide(&waiting, &delivered, &table, T0).verdict, Verdict::Close);
    }

    #[test]
    fn a_dead_host_never_makes_an_address_inactive() {
        let table = Table::with_file(
            "t",
            "[[row]]\nname = \"h\"\nstatus = \"4.3.9\"\nscope = \"host\"\ndelays = []\nfinal = \"inactive\"",
        )
        .unwrap();
        let reply = Outcome::Deferred(Reply::parse("451 4.3.9 x"));
        let before = Some(Timestamp::from_ms(T0.ms() - 1));
        for (delivered_there, standing, host_dead) in [
            (None, Standing::Unavailable, true),
            (before, Standing::Unavailable, true),
            (Some(T0), Standing::Inactive, false),
        ] {
            let case = Case { delivered_there, ..case(1) };
            assert_eq!(decide(&case, &reply, &table, T0).verdict, Verdict::Retire { standing, host_dead });
        }
    }
}
