//! Windows, rates and holds are kept for the whole fleet.

use std::collections::BTreeMap;

use super::{Excuses, Verdict};
use crate::plan::RATED;
use crate::record::{Asked, Evidence, Ms};

/// How long before a moment a fault may have begun that explains a crowd: leases, and what a frozen
/// worker had taken.
const CROWDED_BY_MS: Ms = 15_000;

/// How long after a hold was answered attempts that were claimed before may still begin: the time
/// that a peer may take for a message of the same job, twice.
const BEGUN_MS: Ms = 6_000;

/// How soon after a message of a job the same worker begins the next message of the same attempt.
/// Two attempts of one job are further apart.
const NEXT_MESSAGE_MS: Ms = 1_000;

pub(super) fn judge(evidence: &Evidence, excuses: &Excuses<'_>, verdict: &mut Verdict) {
    for crowded in &evidence.rest.crowded {
        verdict.blame("windows", crowded.clone());
    }
    for crowd in evidence
        .crowds
        .iter()
        .filter(|crowd| !crowd.of.contains('@'))
    {
        if crowd
            .lives
            .iter()
            .any(|(life, _)| excuses.attempt(life, crowd.at - CROWDED_BY_MS, crowd.at))
        {
            verdict.count("more than a window at a peer, some of them cut off");
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
        // Another hold of the same destination ended this one with its release.
        let is_alone = evidence
            .held
            .iter()
            .filter(|other| other.destination == destination)
            .all(|other| {
                std::ptr::eq(other, held) || other.until < held.from || other.from > held.until
            });
        if !is_alone || excuses.forgotten(held.from, held.until) {
            continue;
        }
        for ask in asked
            .iter()
            .filter(|ask| (held.from + BEGUN_MS..held.until).contains(&ask.at))
        {
            if excuses.stood_still(&ask.life, held.from - CROWDED_BY_MS, ask.at) {
                verdict.count("sent to a held destination by a worker that stood still");
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

/// In any span a destination gets what was saved up, what its rate gives in that time, and at most
/// a window of attempts that were claimed before. An attempt counts once: its second message may go
/// over another session.
fn judge_rate(destination: &str, asked: &[&Asked], excuses: &Excuses<'_>, verdict: &mut Verdict) {
    let (rate, burst, window) = RATED;
    let mut last_asked: BTreeMap<(&str, &str), Ms> = BTreeMap::new();
    let mut times: Vec<Ms> = Vec::new();
    for ask in asked {
        let before = last_asked.insert((&ask.job, &ask.life), ask.at);
        let is_next_message = before.is_some_and(|before| ask.at - before < NEXT_MESSAGE_MS);
        let is_excused = excuses.attempt(&ask.life, ask.at - CROWDED_BY_MS, ask.at);
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
                    "{destination}: {sent} attempts from {from} to {until}, and {most} are the most"
                );
                verdict.blame("rates", what);
                return;
            }
        }
    }
}
