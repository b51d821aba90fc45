//! What policy makes of a job and an outcome. Ingest asks it too, because a bounce is the outcome
//! of attempt 0.

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
        /// Whether nobody at that destination got through, so that being unavailable again and
        /// again must not make the address inactive: it is the host that is dead.
        host_dead: bool,
    },
    /// A relay took the message: the job waits this long from now for a bounce, and silence closes
    /// it as delivered.
    Confirm(Duration),
    /// The job waits this long from now and the attempt does not count: the trouble is not the
    /// address's.
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
    /// How long a message that a relay took waits for a bounce; zero: it counts as delivered at
    /// once.
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
pub fn decide<'t>(
    case: &Case<'_>,
    outcome: &Outcome,
    table: &'t Table,
    now: Timestamp,
) -> Decision<'t> {
    let without_row = |verdict, reply| Decision {
        verdict,
        row: None,
        reply,
    };
    let reply = match outcome {
        Outcome::Accepted(reply) if !case.confirm.is_zero() => {
            return without_row(Verdict::Confirm(case.confirm), reply.clone());
        }
        Outcome::Delivered(reply) | Outcome::Accepted(reply) => {
            return without_row(Verdict::Close, reply.clone());
        }
        Outcome::Unreadable(why) => {
            let reply = Reply {
                code: None,
                status: None,
                text: why.clone(),
            };
            return without_row(Verdict::DropMessage, reply);
        }
        Outcome::Deferred(reply) | Outcome::Refused(reply) => reply.clone(),
        Outcome::Unreachable(fault) => Reply {
            code: None,
            status: Some(fault.kind.status()),
            text: text_of(fault),
        },
    };
    if matches!(outcome, Outcome::Unreachable(fault) if fault.side == Side::Ours && fault.kind != FaultKind::Unanswered)
    {
        // Who is busy, be it our relay, may say for how long.
        let hold = bounded_hint(&reply, table).map_or(table.hold, |hint| hint.max(table.hold));
        return without_row(hold_or_end(case, hold, Final::Message, table, now), reply);
    }
    let row = table.row(&reply, case.account, case.stream, case.destination);
    if matches!(outcome, Outcome::Unreachable(fault) if fault.side == Side::Ours) {
        // The relay may have taken the message: each such try counts, so that it cannot be sent
        // without end. But nothing of this is said about the address.
        let verdict = match judge(
            case,
            row,
            &reply,
            || bounded_hint(&reply, table),
            table,
            now,
        ) {
            Verdict::RetryAfter(delay) => Verdict::RetryAfter(delay),
            _ => Verdict::DropAll,
        };
        return Decision {
            verdict,
            row: Some(row),
            reply,
        };
    }
    let verdict = judge(
        case,
        row,
        &reply,
        || bounded_hint(&reply, table),
        table,
        now,
    );
    Decision {
        verdict,
        row: Some(row),
        reply,
    }
}

/// Judges a reply of the recipient's mail system whose row is known. `hint` is the time that it
/// asks for, within bounds.
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
        return hold_or_end(
            case,
            row.jitter.apply(delay, case.job, case.attempt),
            row.end,
            table,
            now,
        );
    }
    let overdue = now.since(case.created) >= table.max_age;
    match row.delays.get(step).filter(|_| !overdue) {
        Some(&delay) => {
            let hinted = if step == 0 {
                hinted(delay, row, hint)
            } else {
                asked_for(delay, row, reply, table)
            };
            // Whoever names a time means that it is not to be before.
            let jitter = if hinted.is_some() {
                row.jitter.never_early()
            } else {
                row.jitter
            };
            Verdict::RetryAfter(jitter.apply(hinted.unwrap_or(delay), case.job, case.attempt))
        }
        None if row.scope == Scope::Message => Verdict::DropMessage,
        None => used_up(case, row),
    }
}

/// A wait that spends no attempt has no last attempt either, so the job's age ends it.
fn hold_or_end(
    case: &Case<'_>,
    delay: Duration,
    end: Final,
    table: &Table,
    now: Timestamp,
) -> Verdict {
    match (now.since(case.created) < table.max_age, end) {
        (true, _) => Verdict::Hold(delay),
        (false, Final::Message) => Verdict::DropAll,
        (false, end) => Verdict::Retire {
            standing: end.standing(),
            host_dead: false,
        },
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
    let Some(span) = asked(&fault.text) else {
        return fault.to_string();
    };
    let (_, rest) = fault.text.split_once("; ").unwrap_or_default();
    let plain = Fault {
        text: rest.to_owned(),
        ..fault.clone()
    };
    asking(&plain.to_string(), Some(span.as_secs()))
}

/// A later delay that the peer asks for beside its reply, where the row heeds hints. What the text
/// alone says is not heeded any more: whoever says "in 5 minutes" each time means nothing by it.
/// Nor does a schedule become shorter than it is.
fn asked_for(delay: Duration, row: &Row, reply: &Reply, table: &Table) -> Option<Duration> {
    let heeds = row.hint != HintUse::Ignore;
    let asked = asked(&reply.text)
        .filter(|_| heeds)
        .map(|asked| bounded(asked, table));
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
    let host_dead =
        row.scope == Scope::Host && case.delivered_there.is_none_or(|at| at < case.created);
    match row.end {
        Final::Message => Verdict::DropAll,
        Final::Inactive if host_dead => Verdict::Retire {
            standing: Standing::Unavailable,
            host_dead,
        },
        end => Verdict::Retire {
            standing: end.standing(),
            host_dead,
        },
    }
}

#[cfg(test)]
mod tests;
