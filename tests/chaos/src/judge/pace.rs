//! Windows, rates and holds must be respected by the whole fleet.

use std::collections::BTreeMap;

use super::{Excuses, Verdict};
use crate::plan::RATED;
use crate::record::{Asked, Evidence, Ms};

/// How long after a fault began it may still explain an attempt that should not have been made:
/// leases may still last, and a frozen worker may still send.
const FAULT_EXPLAINS_MS: Ms = 15_000;

/// How long after a hold was answered an attempt may still begin, if it was claimed before the
/// hold: twice the time that a peer may take for a message of the same job.
const HOLD_GRACE_MS: Ms = 6_000;

/// The longest time between two messages of one attempt of a job. Two attempts of a job are further
/// apart.
const NEXT_MESSAGE_MS: Ms = 1_000;

/// Judges the crowds of destinations, the holds and the rates. The crowds of jobs, which have an
/// `@` in their name, are judged with the leases.
pub(super) fn judge(evidence: &Evidence, excuses: &Excuses<'_>, verdict: &mut Verdict) {
    for crowded in &evidence.rest.crowded {
        verdict.blame("windows", crowded.clone());
    }
    for crowd in evidence
        .crowds
        .iter()
        .filter(|crowd| !crowd.of.contains('@'))
    {
        if crowd.lives.iter().any(|(life, _)| {
            excuses.may_repeat_attempt(life, crowd.at - FAULT_EXPLAINS_MS, crowd.at)
        }) {
            verdict.count("more attempts than the window at a destination, one of them cut off");
        } else {
            verdict.blame(
                "windows",
                format!("{} at {}: {:?}", crowd.of, crowd.at, crowd.lives),
            );
        }
    }
    let mut destinations: BTreeMap<&str, Vec<&Asked>> = BTreeMap::new();
    for ask in &evidence.asked {
        let domain = ask.job.rsplit_once('@').map_or("", |(_, domain)| domain);
        destinations.entry(domain).or_default().push(ask);
    }
    for (destination, asked) in &mut destinations {
        asked.sort_by_key(|ask| ask.at);
        judge_holds(destination, asked, evidence, excuses, verdict);
        if destination.ends_with(".rated.test") {
            judge_rate(destination, asked, excuses, verdict);
        }
    }
}

fn judge_holds(
    destination: &str,
    asked: &[&Asked],
    evidence: &Evidence,
    excuses: &Excuses<'_>,
    verdict: &mut Verdict,
) {
    for held in evidence
        .held
        .iter()
        .filter(|held| held.destination == destination)
    {
        // Two holds of a destination that overlap are not judged: the release of one ends both.
        let is_alone = evidence
            .held
            .iter()
            .filter(|other| other.destination == destination)
            .all(|other| {
                std::ptr::eq(other, held) || other.until < held.from || other.from > held.until
            });
        if !is_alone || excuses.may_have_lost_writes(held.from, held.until) {
            continue;
        }
        for ask in asked
            .iter()
            .filter(|ask| (held.from + HOLD_GRACE_MS..held.until).contains(&ask.at))
        {
            if excuses.was_suspended(&ask.life, held.from - FAULT_EXPLAINS_MS, ask.at) {
                verdict.count("sent to a held destination by a worker that was suspended");
            } else {
                let (from, until) = (held.from, held.until);
                let what = format!(
                    "{} was sent by {} at {}, held from {from} to {until}",
                    ask.job, ask.life, ask.at
                );
                verdict.blame("holds", what);
            }
        }
    }
}

/// Judges the rate. In any span of time a destination may get the attempts that were saved up, the
/// attempts that its rate allows in that time, and one window of attempts that were claimed before
/// it. An attempt with several messages counts once, even if they go over several connections.
fn judge_rate(destination: &str, asked: &[&Asked], excuses: &Excuses<'_>, verdict: &mut Verdict) {
    let (rate, burst, window) = RATED;
    let mut last_asked: BTreeMap<(&str, &str), Ms> = BTreeMap::new();
    let mut times: Vec<Ms> = Vec::new();
    for ask in asked {
        let before = last_asked.insert((&ask.job, &ask.life), ask.at);
        let is_next_message = before.is_some_and(|before| ask.at - before < NEXT_MESSAGE_MS);
        let is_excused = excuses.may_repeat_attempt(&ask.life, ask.at - FAULT_EXPLAINS_MS, ask.at);
        if ask.begins && !is_next_message && !is_excused {
            times.push(ask.at);
        }
    }
    for (first, from) in times.iter().enumerate() {
        for (last, until) in times.iter().enumerate().skip(first) {
            let span = until - from;
            let most = (burst + window + 1) as i64 + rate as i64 * span / 1_000;
            let sent = (last - first + 1) as i64;
            if sent > most {
                let what = format!(
                    "{destination}: {sent} attempts from {from} to {until}, at most {most} allowed"
                );
                verdict.blame("rates", what);
                return;
            }
        }
    }
}
