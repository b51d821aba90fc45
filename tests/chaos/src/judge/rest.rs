//! The checks at the end of a run: standings match the events, nothing is left in Redis, the event
//! stream has no gap and no repetition, and processes ended as they should.

use std::collections::{BTreeMap, HashMap, HashSet};

use domain::event::EventKind;
use domain::standing::Standing;

use super::{Excuses, Histories, Verdict, place};
use crate::record::{Evidence, Ms};

/// How long a process must have run before SIGTERM has to end it cleanly.
const STARTED_MS: Ms = 2_000;

pub(super) fn judge(
    evidence: &Evidence,
    histories: &Histories<'_>,
    excuses: &Excuses<'_>,
    verdict: &mut Verdict,
) {
    judge_standings(evidence, histories, verdict);
    judge_stream(evidence, excuses, verdict);
    judge_processes(evidence, excuses, verdict);
    for left in &evidence.rest.left {
        verdict.blame("nothing is left over", left.clone());
    }
    for wrong in &evidence.rest.wrong {
        verdict.blame("processes and answers", wrong.clone());
    }
    for event in evidence
        .events
        .iter()
        .filter(|event| event.kind == EventKind::JobRecovered)
    {
        if evidence.run.shape.can_lose_writes() {
            verdict.count("jobs recovered after writes were lost");
        } else {
            verdict.blame(
                "nothing is lost",
                format!("{} was in no set: {}", event.job, event.id),
            );
        }
    }
}

fn judge_standings(evidence: &Evidence, histories: &Histories<'_>, verdict: &mut Verdict) {
    let mut stored: BTreeMap<&str, Standing> = evidence
        .rest
        .standings
        .iter()
        .map(|(job, standing)| (job.as_str(), *standing))
        .collect();
    for (job, history) in &histories.0 {
        let expected = history.iter().rev().find_map(|event| match event.kind {
            EventKind::AddressRetired | EventKind::AddressSuppressed => event.standing,
            EventKind::AddressReinstated
            | EventKind::MessageDelivered
            | EventKind::JobScheduled => Some(Standing::Active),
            _ => None,
        });
        let (expected, actual) = (
            expected.unwrap_or(Standing::Active),
            stored.remove(job).unwrap_or(Standing::Active),
        );
        if expected != actual {
            verdict.blame(
                "standings",
                format!("{job} is {actual:?}, but by its events it should be {expected:?}"),
            );
        }
    }
    for (job, standing) in stored
        .into_iter()
        .filter(|(_, standing)| *standing != Standing::Active)
    {
        verdict.blame(
            "standings",
            format!("{job} is {standing:?}, and has no event"),
        );
    }
}

fn judge_stream(evidence: &Evidence, excuses: &Excuses<'_>, verdict: &mut Verdict) {
    let mut seen = HashSet::new();
    let mut last: HashMap<&str, (u64, u64, u64)> = HashMap::new();
    for id in &evidence.rest.followed {
        if !seen.insert(id.as_str()) {
            verdict.blame("events resume", format!("{id} came twice"));
        }
        let shard = id.split_once(':').map_or("", |(shard, _)| shard);
        if id.ends_with(":missing") {
            // The last seen event is lost, so the stream may continue with an earlier one.
            last.remove(shard);
            if !evidence.run.shape.can_lose_writes() {
                verdict.blame(
                    "events resume",
                    format!("{id}, though no server lost anything"),
                );
            }
            continue;
        }
        let before = last.insert(shard, place(id));
        if before.is_some_and(|before| before > place(id)) {
            verdict.blame(
                "events resume",
                format!("{id} came after a later one of its shard"),
            );
        }
    }
    for id in &evidence.rest.stored {
        if seen.contains(id.as_str()) {
            continue;
        }
        // The first number of an entry is the time at which it was written.
        let at = place(id).0.try_into().unwrap_or(Ms::MAX);
        if excuses.may_have_lost_writes(at, at) {
            verdict.count("events that the stream missed while writes were lost");
        } else {
            verdict.blame("events resume", format!("the stream missed {id}"));
        }
    }
    let read: HashSet<&str> = evidence
        .events
        .iter()
        .map(|event| event.id.as_str())
        .collect();
    let stored: HashSet<&str> = evidence.rest.stored.iter().map(String::as_str).collect();
    for id in stored.symmetric_difference(&read) {
        verdict.blame(
            "events resume",
            format!("{id} is not both in the servers and in a stream from the start"),
        );
    }
}

fn judge_processes(evidence: &Evidence, excuses: &Excuses<'_>, verdict: &mut Verdict) {
    for ended in &evidence.ended {
        let status = ended.status.as_deref().unwrap_or("no end within its time");
        if excuses.store_in_trouble(
            &ended.life,
            ended.at - ended.age_ms.min(STARTED_MS),
            ended.at + STARTED_MS,
        ) {
            verdict.count("ends of processes without a store");
        } else if !ended.was_asked {
            verdict.blame(
                "processes and answers",
                format!("{} ended by itself at {}: {status}", ended.life, ended.at),
            );
        } else if !ended.is_success && ended.age_ms > STARTED_MS {
            verdict.blame(
                "processes and answers",
                format!(
                    "{} ended on SIGTERM at {} with {status}",
                    ended.life, ended.at
                ),
            );
        }
    }
}
