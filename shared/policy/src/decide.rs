//! Decides what to do about the outcome of an attempt. Intake uses it too, because a bounce is the
//! outcome of attempt 0.

use std::time::Duration;

use classify::hint::{hint, retry_after, with_retry_after};
use domain::clock::Timestamp;
use domain::outcome::{Fault, FaultKind, Outcome, Side};
use domain::reply::Reply;
use domain::standing::Standing;

use crate::row::{Final, HintUse, Row, Scope};
use crate::table::Table;

/// What to do about the outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The mail was delivered: the job ends.
    Close,
    /// The job waits this long from now for its next attempt.
    RetryAfter(Duration),
    /// This message is given up. The next message of the job is tried.
    DropMessage,
    /// All messages are given up. The address keeps its standing.
    DropAll,
    /// The address leaves the active list, and all its messages are given up.
    Retire {
        /// The new standing of the address.
        standing: Standing,
        /// Whether no mail was delivered at that destination since the job was created. Then the
        /// host counts as dead, and repeated unavailability must not make the address inactive.
        host_down: bool,
    },
    /// A relay accepted the message. The job waits this long from now for a bounce. If none comes,
    /// the message counts as delivered.
    Confirm(Duration),
    /// The job waits this long from now, and the attempt does not count: the address is not the
    /// cause of the trouble.
    Hold(Duration),
}

/// The facts about an attempt and its job that the policy needs.
#[derive(Clone, Copy, Debug)]
pub struct AttemptFacts<'a> {
    /// The job's id. The jitter depends on it.
    pub job: &'a str,
    /// The tenant.
    pub account: &'a str,
    /// The kind of mail that was sent.
    pub stream: Option<&'a str>,
    /// The destination of the attempt.
    pub destination: &'a str,
    /// The number of the attempt that ended. The platform's own was 0.
    pub attempt: u32,
    /// When the job was created.
    pub created: Timestamp,
    /// When mail was last delivered at that destination, if known.
    pub last_delivery_there: Option<Timestamp>,
    /// How long a message that a relay accepted waits for a bounce. Zero: it counts as delivered at
    /// once.
    pub confirm: Duration,
}

/// The verdict, with its row and reply.
#[derive(Clone, Debug)]
pub struct Decision<'t> {
    /// What to do.
    pub verdict: Verdict,
    /// The row that applies. `None` if the recipient's mail system sent no reply.
    pub row: Option<&'t Row>,
    /// The outcome as a reply. For a fault, a reply that represents it.
    pub reply: Reply,
}

/// Decides about the outcome of one attempt. Pure: the same input always has the same verdict.
pub fn decide<'t>(
    facts: &AttemptFacts<'_>,
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
        Outcome::Accepted(reply) if !facts.confirm.is_zero() => {
            return without_row(Verdict::Confirm(facts.confirm), reply.clone());
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
    let is_ours = matches!(outcome, Outcome::Unreachable(fault) if fault.side == Side::Ours);
    let is_unanswered = matches!(
        outcome,
        Outcome::Unreachable(fault) if fault.kind == FaultKind::Unanswered
    );
    if is_ours && !is_unanswered {
        // A busy peer, such as our relay, may state how long to wait. It knows better than we do.
        let hold = bounded_hint(&reply, table).unwrap_or(table.hold);
        return without_row(hold_or_end(facts, hold, Final::Message, table, now), reply);
    }
    let row = table.row(&reply, facts.account, facts.stream, facts.destination);
    if is_ours {
        // The relay may have accepted the message. If such an attempt did not count, the message
        // could be sent again without end. So it counts, but the address is not blamed for it.
        let verdict = match judge(
            facts,
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
        facts,
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

/// Decides about a reply of the recipient's mail system whose row is known. `hint` returns the time
/// that the reply asks for, within the limits.
pub(crate) fn judge(
    facts: &AttemptFacts<'_>,
    row: &Row,
    reply: &Reply,
    hint: impl FnOnce() -> Option<Duration>,
    table: &Table,
    now: Timestamp,
) -> Verdict {
    let attempt = usize::try_from(facts.attempt).unwrap_or(usize::MAX);
    if row.hold {
        let delay = row.delays[attempt.min(row.delays.len() - 1)];
        return hold_or_end(
            facts,
            row.jitter.apply(delay, facts.job, facts.attempt),
            row.end,
            table,
            now,
        );
    }
    let overdue = now.since(facts.created) >= table.max_age;
    match row.delays.get(attempt).filter(|_| !overdue) {
        Some(&delay) => {
            let hinted = if attempt == 0 {
                hinted(delay, row, hint)
            } else {
                asked_for(delay, row, reply, table)
            };
            // A server that names a time does not want the next attempt before it.
            let jitter = if hinted.is_some() {
                row.jitter.never_early()
            } else {
                row.jitter
            };
            Verdict::RetryAfter(jitter.apply(hinted.unwrap_or(delay), facts.job, facts.attempt))
        }
        None if row.scope == Scope::Message => Verdict::DropMessage,
        None => used_up(facts, row),
    }
}

/// Holds the job, or ends it if it is too old: otherwise a wait that uses up no attempts would
/// never end.
fn hold_or_end(
    facts: &AttemptFacts<'_>,
    delay: Duration,
    end: Final,
    table: &Table,
    now: Timestamp,
) -> Verdict {
    match (now.since(facts.created) < table.max_age, end) {
        (true, _) => Verdict::Hold(delay),
        (false, Final::Message) => Verdict::DropAll,
        (false, end) => Verdict::Retire {
            standing: end.standing(),
            host_down: false,
        },
    }
}

/// Returns the delay before the first attempt that a hint in the reply asks for, if the row allows
/// hints.
fn hinted(delay: Duration, row: &Row, hint: impl FnOnce() -> Option<Duration>) -> Option<Duration> {
    match row.hint {
        HintUse::Ignore => None,
        HintUse::Lengthen => hint().filter(|hint| *hint > delay),
        HintUse::Replace => hint(),
    }
}

/// Returns the text for a fault. If the peer asked for a time outside its reply, that time stays at
/// the front, where [`retry_after`] finds it.
fn text_of(fault: &Fault) -> String {
    let Some(span) = retry_after(&fault.text) else {
        return fault.to_string();
    };
    let (_, rest) = fault.text.split_once("; ").unwrap_or_default();
    let plain = Fault {
        text: rest.to_owned(),
        ..fault.clone()
    };
    with_retry_after(&plain.to_string(), Some(span.as_secs()))
}

/// Returns the delay before a later attempt that the peer asked for outside its reply's text, if
/// the row allows hints. A time that is only in the text is ignored for later attempts: a server
/// that writes "in 5 minutes" each time does not mean it. A delay is never shorter than the
/// schedule's.
fn asked_for(delay: Duration, row: &Row, reply: &Reply, table: &Table) -> Option<Duration> {
    let allows_hints = row.hint != HintUse::Ignore;
    let asked = retry_after(&reply.text)
        .filter(|_| allows_hints)
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

/// Returns the verdict when the attempts that the row allows are used up.
fn used_up(facts: &AttemptFacts<'_>, row: &Row) -> Verdict {
    let host_down = row.scope == Scope::Host
        && facts
            .last_delivery_there
            .is_none_or(|at| at < facts.created);
    match row.end {
        Final::Message => Verdict::DropAll,
        Final::Inactive if host_down => Verdict::Retire {
            standing: Standing::Unavailable,
            host_down,
        },
        end => Verdict::Retire {
            standing: end.standing(),
            host_down,
        },
    }
}

#[cfg(test)]
mod tests;
