//! The verdict: checks the promises against the records. It is pure, so the same evidence always
//! gets the same verdict.

use std::collections::{BTreeMap, HashMap};

use self::excuse::Excuses;
use crate::record::{Event, Evidence, ReportedFact};

mod attempts;
mod excuse;
#[cfg(test)]
mod forged;
mod messages;
mod pace;
mod rest;
mod sends;

/// The result of judging a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// Broken promises, each with its evidence.
    pub(crate) violations: Vec<(&'static str, String)>,
    /// Observations that are no violation but are counted.
    pub(crate) counts: BTreeMap<&'static str, usize>,
}

impl Verdict {
    fn blame(&mut self, promise: &'static str, evidence: String) {
        self.violations.push((promise, evidence));
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

/// The events of each job, in the order of the journal.
struct Histories<'a>(BTreeMap<&'a str, Vec<&'a Event>>);

impl<'a> Histories<'a> {
    fn of(events: &'a [Event]) -> Self {
        let mut jobs: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
        for event in events.iter().filter(|event| !event.job.is_empty()) {
            jobs.entry(&event.job).or_default().push(event);
        }
        for history in jobs.values_mut() {
            history.sort_by_key(|event| place(&event.id));
        }
        Self(jobs)
    }

    fn of_job(&self, job: &str) -> &[&'a Event] {
        self.0.get(job).map_or(&[], Vec::as_slice)
    }
}

/// The position of an event in its journal: the two numbers of the entry, and the number of the
/// event in the entry.
fn place(id: &str) -> (u64, u64, u64) {
    let mut parts = id
        .split([':', '-'])
        .skip(1)
        .map(|part| part.parse().unwrap_or_default());
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}

/// The facts that were reported about each job.
type Facts<'a> = HashMap<&'a str, Vec<&'a ReportedFact>>;

/// Replaces the event's time, which is by the server's clock, with the time by the clock of this
/// machine. The due time in the event is unchanged.
fn in_our_time(event: &Event, excuses: &Excuses<'_>) -> Event {
    Event {
        at: excuses.our_time(event.at),
        ..event.clone()
    }
}

/// Judges a run.
pub(crate) fn judge(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    let excuses = Excuses::of(evidence);
    let events: Vec<Event> = evidence
        .events
        .iter()
        .map(|event| in_our_time(event, &excuses))
        .collect();
    let histories = Histories::of(&events);
    let mut facts = Facts::new();
    for fact in &evidence.facts {
        facts.entry(fact.job.as_str()).or_default().push(fact);
    }
    let stories = messages::judge(evidence, &histories, &excuses, &facts, &mut verdict);
    attempts::judge(evidence, &histories, &excuses, &facts, &mut verdict);
    sends::judge(
        evidence,
        &histories,
        &excuses,
        &stories,
        &facts,
        &mut verdict,
    );
    pace::judge(evidence, &excuses, &mut verdict);
    rest::judge(evidence, &histories, &excuses, &mut verdict);
    verdict
}
