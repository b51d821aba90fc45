//! Attempt counters must be exact and within the schedule, and no mail may be sent before it is
//! due.

use std::collections::{BTreeMap, HashMap};

use domain::event::EventKind;

use super::{Excuses, Facts, Histories, Verdict};
use crate::config::{PERMANENT, STEPS};
use crate::record::{Asked, Event, Evidence, Ms, ReportedFact};

/// A fact may end a job while a worker has it. For this long the worker may still ask a peer for
/// the recipient: it learns of the end within a second, and then finishes what it has begun.
const LEARNED_MS: Ms = 3_000;

/// How long after a sign of life of an address its job may be tried before its due time. No event
/// records that.
const RESUMED_MS: Ms = 15_000;

/// How much the times of a peer's record and of an event may differ if both are of one moment.
const MOMENT_MS: Ms = 2;

/// How far a server's faked clock may be behind the peers' clock. An event with the outcome of a
/// try may therefore have an earlier time than the peer's record of that try.
const BEHIND_MS: Ms = 20;

/// The due time of a job that is due as soon as the event is written, at any time of the server's
/// clock.
const AT_ONCE: Ms = Ms::MIN;

/// When a job is due, according to the journal.
struct Due {
    /// When the event was written.
    since: Ms,
    /// `None` if there is no job.
    due: Option<Ms>,
}

/// A job, built from its journal event by event.
#[derive(Default)]
struct Job {
    attempt: u32,
    /// The messages that a relay has accepted, with the attempts that a report may name.
    accepted: HashMap<String, u32>,
    dues: Vec<Due>,
    /// How many messages reports have removed. For each of them, the other messages of the job are
    /// tried once more.
    reported: u32,
    /// Whether a sign of life was reported, which may reset the counter to 0.
    is_alive: bool,
}

pub(super) fn judge(
    evidence: &Evidence,
    histories: &Histories<'_>,
    excuses: &Excuses<'_>,
    facts: &Facts<'_>,
    verdict: &mut Verdict,
) {
    let mut asked: BTreeMap<&str, Vec<&Asked>> = BTreeMap::new();
    for ask in &evidence.asked {
        asked.entry(&ask.job).or_default().push(ask);
    }
    for (name, history) in &histories.0 {
        let signs = facts.get(name).map_or(&[][..], Vec::as_slice);
        let is_alive = signs
            .iter()
            .any(|sign| ["delivered", "engaged"].contains(&sign.fact.as_str()));
        let mut job = Job {
            is_alive,
            ..Job::default()
        };
        for entry in history.chunk_by(|one, other| one.entry() == other.entry()) {
            job.follow(name, entry, verdict);
        }
        let tries = asked.remove(name).unwrap_or_default();
        for ask in &tries {
            judge_time(ask, &tries, &job.dues, signs, excuses, verdict);
        }
    }
    for ask in asked.into_values().flatten() {
        if excuses.may_have_lost_writes(ask.at, ask.at) {
            verdict.count("sent, and forgotten by the servers");
        } else {
            verdict.blame(
                "never early",
                format!(
                    "{} was sent by {} at {}, and the job has no event",
                    ask.job, ask.life, ask.at
                ),
            );
        }
    }
}

fn judge_time(
    ask: &Asked,
    tries: &[&Asked],
    dues: &[Due],
    signs: &[&ReportedFact],
    excuses: &Excuses<'_>,
    verdict: &mut Verdict,
) {
    let server = excuses.server_time(ask.at);
    let brought_forward = |sign: &&&ReportedFact| {
        sign.answer == "resumed" && (sign.first_at..sign.first_at + RESUMED_MS).contains(&ask.at)
    };
    if signs.iter().any(|sign| brought_forward(&sign)) {
        verdict.count("brought forward by a sign of life");
        return;
    }
    // An event that was written at the very moment of the try may be from before or after the try.
    let later = dues.iter().rev().skip_while(|due| due.since > ask.at);
    let moment = later
        .clone()
        .take_while(|due| due.since >= ask.at - MOMENT_MS)
        .count();
    let moment = moment.max(usize::from(is_try_of_last(ask, tries, later.clone())));
    let why = match later
        .take(moment + 1)
        .map(|due| why_not_now(due, ask.at, server))
        .reduce(Option::and)
    {
        None => "before it was scheduled".to_owned(),
        Some(None) => return,
        Some(Some(why)) => why,
    };
    if excuses.may_have_outdated_lease(&ask.life, ask.at, ask.at)
        || excuses.may_have_lost_writes(ask.at, ask.at)
    {
        verdict.count("sent early, in flight at a fault");
    } else {
        verdict.blame(
            "never early",
            format!("{} was sent by {} at {}, {why}", ask.job, ask.life, ask.at),
        );
    }
}

/// Whether the last event before `ask` has the outcome of that very try, by a clock that is behind:
/// it is recent, and no other try can be the one that it is about.
fn is_try_of_last<'a>(
    ask: &Asked,
    tries: &[&Asked],
    mut later: impl Iterator<Item = &'a Due>,
) -> bool {
    let Some(last) = later.next() else {
        return false;
    };
    let before = later.next().map_or(Ms::MIN, |due| due.since);
    ask.at - last.since <= BEHIND_MS
        && !tries
            .iter()
            .any(|other| (before..=last.since).contains(&other.at))
}

/// Why a job must not be tried at that time, if `due` is the last record of its due time.
fn why_not_now(due: &Due, at: Ms, server: Ms) -> Option<String> {
    match due.due {
        None if at - due.since > LEARNED_MS => Some(format!("after it had ended at {}", due.since)),
        Some(due) if due > server + 1 => Some(format!("before it was due at {due}")),
        _ => None,
    }
}

impl Job {
    /// Applies one entry of the journal to the job.
    fn follow(&mut self, name: &str, entry: &[&Event], verdict: &mut Verdict) {
        let before = self.attempt;
        let tried = entry.iter().any(|event| is_of_a_try(event));
        let is_delivered =
            |event: &&Event| event.kind == EventKind::MessageDelivered && event.attempt.is_some();
        let delivered = entry.iter().any(is_delivered);
        for event in entry {
            if event.late_ms.is_some_and(|late| late < 0) {
                verdict.blame(
                    "never early",
                    format!("{name}: {} has late_ms {:?}", event.id, event.late_ms),
                );
            }
            self.check_counter(name, event, before, tried, delivered, verdict);
        }
        for event in entry {
            self.apply(event, before, delivered);
        }
        // A job that would end here continues at once if messages have joined it. No event records
        // that.
        let is_given_up = tried && entry.iter().all(|event| event.due.is_none());
        let ends =
            |last: &&&Event| is_end_of_an_attempt(last) || is_given_up && is_dropped_for_good(last);
        if let Some(last) = entry.last().filter(ends) {
            self.attempt = 0;
            self.dues.push(Due {
                since: last.at,
                due: Some(AT_ONCE),
            });
        }
    }

    /// Whether an event is about the report of a relay: the relay had accepted the message, and
    /// reports that it did not deliver it.
    fn is_report(&self, event: &Event) -> bool {
        let kind = matches!(
            event.kind,
            EventKind::AttemptDeferred | EventKind::MessageDropped
        );
        kind && event.late_ms.is_none()
            && event
                .message
                .as_ref()
                .is_some_and(|message| self.accepted.contains_key(message))
    }

    fn check_counter(
        &self,
        name: &str,
        event: &Event,
        before: u32,
        tried: bool,
        delivered: bool,
        verdict: &mut Verdict,
    ) {
        let Some(attempt) = event.attempt else { return };
        let is_silence =
            event.kind == EventKind::MessageDelivered && event.reason.as_deref() == Some("silence");
        // What becomes of a message that a relay has accepted belongs to the attempt that the relay
        // accepted it in. Since then, a delivery may have reset the counter of the job to 0.
        let is_about_acceptance = is_silence || self.is_report(event);
        let accepted_in = event.message.as_ref().and_then(|id| self.accepted.get(id));
        let accepted_in = accepted_in.copied().filter(|_| is_about_acceptance);
        let expected = match accepted_in {
            Some(number) => number,
            None if is_about_acceptance || !tried => before,
            None => before + 1,
        };
        // The end of a job without a try belongs to the last attempt, which may be one of those.
        let is_end_of_accepted =
            !tried && event.message.is_none() && self.accepted.values().any(|n| *n == attempt);
        // The platform's own attempt was 0, and after a sign of life the job starts again.
        let is_anew = self.is_alive && attempt <= 1 || attempt == 0;
        if attempt != expected && !is_anew && !is_end_of_accepted {
            let kind = event.kind.name();
            verdict.blame(
                "exact counters",
                format!(
                    "{name}: {kind} {} has attempt {attempt}, and {expected} was next",
                    event.id
                ),
            );
        }
        // After a delivery, the next failure in the same attempt is the first try of a new outage.
        // Its number may be higher than the number of steps.
        let was_judged = accepted_in == Some(attempt);
        if attempt > STEPS + self.reported && !delivered && !was_judged && !is_end_of_accepted {
            verdict.blame(
                "exact counters",
                format!(
                    "{name}: {} has attempt {attempt} of at most {STEPS}",
                    event.id
                ),
            );
        }
        let is_soft = event
            .policy
            .as_deref()
            .is_none_or(|policy| policy != PERMANENT);
        if event.kind == EventKind::AddressRetired && is_soft && attempt < STEPS {
            verdict.blame(
                "within the schedule",
                format!(
                    "{name}: {} retires at attempt {attempt} of {STEPS}",
                    event.id
                ),
            );
        }
    }

    fn apply(&mut self, event: &Event, before: u32, delivered: bool) {
        let Event {
            kind,
            at,
            due,
            attempt,
            message,
            reason,
            ..
        } = event;
        let is_report = self.is_report(event);
        if let Some(message) = message
            && (kind.is_final() || is_report)
        {
            self.accepted.remove(message);
        }
        match kind {
            EventKind::JobScheduled => {
                *self = Self {
                    is_alive: self.is_alive,
                    dues: std::mem::take(&mut self.dues),
                    ..Self::default()
                };
                self.dues.push(Due {
                    since: *at,
                    due: *due,
                });
            }
            EventKind::JobLapsed | EventKind::JobReinstated | EventKind::JobRecovered => {
                self.dues.push(Due {
                    since: *at,
                    due: Some(AT_ONCE),
                });
            }
            EventKind::JobClosed | EventKind::AddressRetired | EventKind::AddressSuppressed => {
                (self.attempt, self.reported, self.accepted) = (0, 0, HashMap::new());
                self.dues.push(Due {
                    since: *at,
                    due: None,
                });
            }
            EventKind::AttemptDeferred | EventKind::MessageAccepted => {
                if let (EventKind::MessageAccepted, Some(message), Some(attempt)) =
                    (kind, message, attempt)
                {
                    self.accepted.insert(message.clone(), *attempt);
                }
                let counts = !matches!(
                    reason.as_deref(),
                    Some("held" | "interrupted" | "confirming")
                );
                if due.is_some() && !is_report {
                    self.attempt = match attempt {
                        _ if delivered => 0,
                        Some(attempt) if counts => *attempt,
                        _ => before,
                    };
                }
                if due.is_some() {
                    self.dues.push(Due {
                        since: *at,
                        due: *due,
                    });
                }
            }
            // The report has removed one message. The others in the job are tried at once.
            EventKind::MessageDropped if is_report => {
                self.reported += 1;
                self.dues.push(Due {
                    since: *at,
                    due: Some(AT_ONCE),
                });
            }
            _ => {}
        }
    }
}

/// Whether an event is about a try. Events about a report, or about a report that did not come, are
/// not.
fn is_of_a_try(event: &Event) -> bool {
    event.late_ms.is_some() || event.reason.as_deref() == Some("interrupted")
}

/// Whether an event records that the policy has given up a message.
fn is_dropped_for_good(event: &Event) -> bool {
    event.kind == EventKind::MessageDropped && event.reason.as_deref() == Some("given_up")
}

/// Whether an event records that a worker ended a message. If no event follows it, the job
/// continues.
fn is_end_of_an_attempt(event: &Event) -> bool {
    match event.kind {
        EventKind::MessageDelivered => event.reason.as_deref() != Some("reported"),
        EventKind::MessageDropped => event.late_ms.is_some(),
        _ => false,
    }
}
