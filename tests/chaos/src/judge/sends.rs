//! Compares what the peers accepted with the journal: no message is accepted twice or without an
//! event, no mail goes to a suppressed address, and a job has one attempt at a time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;

use domain::event::EventKind;

use super::excuse::SETTLED_MS;
use super::messages::Stories;
use super::{Excuses, Facts, Histories, Verdict};
use crate::record::{Crowd, Evidence, Ms, Taken};

pub(super) fn judge(
    evidence: &Evidence,
    histories: &Histories<'_>,
    excuses: &Excuses<'_>,
    stories: &Stories<'_>,
    facts: &Facts<'_>,
    verdict: &mut Verdict,
) {
    let mut taken: BTreeMap<&str, Vec<&Taken>> = BTreeMap::new();
    for take in &evidence.taken {
        taken.entry(&take.message).or_default().push(take);
    }
    let mut refuted: HashMap<&str, Vec<RangeInclusive<Ms>>> = HashMap::new();
    for refutation in &evidence.refuted {
        refuted
            .entry(&refutation.message)
            .or_default()
            .push(refutation.from..=refutation.at);
    }
    for (message, takes) in &mut taken {
        takes.sort_by_key(|take| take.at);
        let reports = refuted.get(message).map_or(&[][..], Vec::as_slice);
        for pair in takes.windows(2) {
            judge_pair(
                message, pair[0], pair[1], reports, stories, excuses, verdict,
            );
        }
    }
    judge_ends(
        &taken, &refuted, stories, excuses, facts, histories, verdict,
    );
    judge_suppressed(evidence, excuses, histories, verdict);
    judge_overlaps(evidence, excuses, histories, verdict);
}

/// Whether an attempt was in flight at a fault. It is in flight from the moment when the peer
/// received it until it should be settled.
fn was_in_flight(take: &Taken, excuses: &Excuses<'_>) -> bool {
    excuses.may_repeat_attempt(&take.life, take.began, take.at + SETTLED_MS)
}

fn judge_pair(
    message: &str,
    first: &Taken,
    second: &Taken,
    reports: &[RangeInclusive<Ms>],
    stories: &Stories<'_>,
    excuses: &Excuses<'_>,
    verdict: &mut Verdict,
) {
    // A report takes effect at some time before it is answered.
    let between = |report: &RangeInclusive<Ms>| {
        *report.start() <= second.at + SETTLED_MS && *report.end() >= first.at
    };
    let was_repeated = stories.get(message).is_some_and(|story| {
        let anew = story.entries.iter().skip(1);
        anew.clone().any(|at| (first.at..=second.at).contains(at))
    });
    if !first.answered {
        verdict.count("accepted twice, the first time without an answer");
    } else if reports.iter().any(between) || was_repeated {
        verdict.count("accepted again after a report or a repeated input");
    } else if was_in_flight(first, excuses)
        || excuses.may_have_outdated_lease(&second.life, second.began, second.at)
    {
        verdict.count("accepted twice, in flight at a fault");
    } else {
        let describe =
            |take: &Taken| format!("by {} from {} to {}", take.life, take.began, take.at);
        verdict.blame(
            "accepted once",
            format!(
                "{message} of {}: {} and {}",
                first.job,
                describe(first),
                describe(second)
            ),
        );
    }
}

/// Every message that ended as delivered was accepted by a peer, and every message that a peer
/// accepted ends as delivered.
fn judge_ends(
    taken: &BTreeMap<&str, Vec<&Taken>>,
    refuted: &HashMap<&str, Vec<RangeInclusive<Ms>>>,
    stories: &Stories<'_>,
    excuses: &Excuses<'_>,
    facts: &Facts<'_>,
    histories: &Histories<'_>,
    verdict: &mut Verdict,
) {
    // A report that retires an address ends all messages of its job in one entry. The entry may
    // also have events of other jobs.
    let retired_by_reports: HashSet<(&str, &str)> = refuted
        .keys()
        .filter_map(|message| stories.get(message))
        .flat_map(|story| &story.ends)
        .filter(|end| end.reason.as_deref() == Some("retired"))
        .map(|end| (end.entry(), end.job.as_str()))
        .collect();
    for (message, story) in stories {
        let takes = taken.get(message).map_or(&[][..], Vec::as_slice);
        let is_by_attempt = |reason: Option<&str>| reason != Some("reported");
        let delivered: Vec<_> = story
            .ends
            .iter()
            .filter(|end| end.kind == EventKind::MessageDelivered)
            .collect();
        if takes.is_empty()
            && delivered
                .iter()
                .any(|end| is_by_attempt(end.reason.as_deref()))
        {
            verdict.blame(
                "delivered is accepted",
                format!(
                    "{message}: delivered by {}, and no peer accepted it",
                    delivered[0].id
                ),
            );
        }
        let Some(last) = story.ends.last() else {
            continue;
        };
        // A message that came in as a bounce again has several histories. An address that a fact or
        // a bounce has ended has its own rules.
        let is_plain = story.entries.len() == 1 && delivered.is_empty();
        let is_ended_outside = facts.contains_key(last.job.as_str())
            || refuted.contains_key(message)
            || retired_by_reports.contains(&(last.entry(), last.job.as_str()))
            || histories
                .of_job(&last.job)
                .iter()
                .any(|event| is_of_intake(event.kind, event.attempt));
        if !is_plain || is_ended_outside || takes.is_empty() {
            continue;
        }
        if takes
            .iter()
            .all(|take| !take.answered || was_in_flight(take, excuses))
        {
            verdict.count("accepted and dropped, in flight at a fault");
        } else {
            let take = takes[0];
            verdict.blame(
                "accepted is delivered",
                format!(
                    "{message} was accepted at {} of {}, and {} ended it as {}",
                    take.at,
                    take.life,
                    last.id,
                    last.kind.name()
                ),
            );
        }
    }
}

/// Whether an event ends a job from outside: a bounce that retires the address, or a complaint.
fn is_of_intake(kind: EventKind, attempt: Option<u32>) -> bool {
    matches!(
        kind,
        EventKind::AddressRetired | EventKind::AddressSuppressed
    ) && attempt.unwrap_or(0) == 0
}

/// After a complaint is answered, no mail may be sent to its address.
fn judge_suppressed(
    evidence: &Evidence,
    excuses: &Excuses<'_>,
    histories: &Histories<'_>,
    verdict: &mut Verdict,
) {
    let mut since: HashMap<&str, Ms> = HashMap::new();
    for fact in evidence
        .facts
        .iter()
        .filter(|fact| fact.answer == "suppressed")
    {
        let at = since.entry(&fact.job).or_insert(fact.answered_at);
        *at = fact.answered_at.min(*at);
    }
    for ask in &evidence.asked {
        let Some(since) = since.get(ask.job.as_str()).filter(|since| **since < ask.at) else {
            continue;
        };
        // The servers may have lost the complaint.
        let is_known = histories
            .of_job(&ask.job)
            .iter()
            .any(|event| event.kind == EventKind::AddressSuppressed);
        if excuses.may_have_outdated_lease(&ask.life, ask.at, ask.at)
            || !is_known
            || excuses.may_have_lost_writes(*since, *since)
        {
            verdict.count("sent after a complaint, in flight at a fault");
        } else {
            verdict.blame(
                "no mail after a complaint",
                format!(
                    "{} was sent by {} at {}, and suppressed since {since}",
                    ask.job, ask.life, ask.at
                ),
            );
        }
    }
}

/// Whether a fact ended the job while the first of these attempts was in flight. The attempt no
/// longer counts, but it may continue until its worker learns of the fact. Meanwhile a bounce may
/// start a new job.
fn was_ended_by_a_fact(crowd: &Crowd, histories: &Histories<'_>) -> bool {
    let Some(began) = crowd.lives.iter().map(|(_, began)| *began).min() else {
        return false;
    };
    let meanwhile = began..=crowd.at;
    histories.of_job(&crowd.of).iter().any(|event| {
        event.kind == EventKind::JobClosed
            && event.attempt.is_none()
            && meanwhile.contains(&event.at)
    })
}

/// Two attempts of one job at the same time mean two valid leases.
fn judge_overlaps(
    evidence: &Evidence,
    excuses: &Excuses<'_>,
    histories: &Histories<'_>,
    verdict: &mut Verdict,
) {
    for job in &evidence.rest.leased_twice {
        verdict.blame("one lease at a time", job.clone());
    }
    for crowd in evidence
        .crowds
        .iter()
        .filter(|crowd| crowd.of.contains('@'))
    {
        if crowd
            .lives
            .iter()
            .any(|(life, began)| excuses.may_repeat_attempt(life, *began, crowd.at))
        {
            verdict.count("two attempts of a job at once, one of them cut off");
        } else if was_ended_by_a_fact(crowd, histories) {
            verdict.count("two attempts of a job at once, the first one's job ended by a fact");
        } else {
            verdict.blame(
                "one lease at a time",
                format!("{} at {}: {:?}", crowd.of, crowd.at, crowd.lives),
            );
        }
    }
}
