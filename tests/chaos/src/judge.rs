//! The verdict: what was promised against what was written down. Pure: the same evidence is judged
//! the same way every time.

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

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// Promises that were broken: which, and what that stands on.
    pub(crate) violations: Vec<(&'static str, String)>,
    /// What is no violation and yet worth a figure.
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

/// The events of each job, in the order of its journal.
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

/// The place of an event in its journal: the entry's two numbers, and the event's in the entry.
fn place(id: &str) -> (u64, u64, u64) {
    let mut parts = id
        .split([':', '-'])
        .skip(1)
        .map(|part| part.parse().unwrap_or_default());
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}

/// The facts that were told about each job.
type Facts<'a> = HashMap<&'a str, Vec<&'a ReportedFact>>;

/// The event with the time that this machine's clock showed. When it leads to is left as it is.
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
    for told in &evidence.told {
        facts.entry(told.job.as_str()).or_default().push(told);
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
