//! The output at the end of a run: one line of figures, and one line for each violation.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::judge::Verdict;
use crate::record::Evidence;

/// How many violations of one promise are printed. The folder contains all of them.
const VIOLATIONS_MAX: usize = 10;

/// Prints the figures and the violations.
pub(crate) fn print(evidence: &Evidence, verdict: &Verdict, as_table: bool) {
    println!("{}", figures(evidence, verdict));
    if as_table {
        println!("{}", row(evidence, verdict));
    }
    let mut printed: BTreeMap<&str, usize> = BTreeMap::new();
    for (promise, what) in &verdict.violations {
        let count = printed.entry(promise).or_default();
        *count += 1;
        if *count <= VIOLATIONS_MAX {
            println!("VIOLATION {promise}: {what}");
        }
    }
    for (promise, count) in printed
        .into_iter()
        .filter(|(_, count)| *count > VIOLATIONS_MAX)
    {
        println!("VIOLATION {promise}: and {} more", count - VIOLATIONS_MAX);
    }
}

/// How many faults of each kind occurred.
fn faults(evidence: &Evidence) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for fault in &evidence.faults {
        *counts.entry(fault.kind.name()).or_default() += 1;
    }
    counts
}

fn figures(evidence: &Evidence, verdict: &Verdict) -> String {
    let run = &evidence.run;
    let mut line = format!(
        "chaos: shape={} seed={} minutes={} bounces={} events={} \
         tried={} accepted={} faults={} drained-s={}",
        run.shape.name(),
        run.seed,
        run.minutes,
        evidence.bounced.len(),
        evidence.events.len(),
        evidence.asked.len(),
        evidence.taken.len(),
        evidence.faults.len(),
        evidence.rest.drained_ms / 1_000,
    );
    for (what, count) in &verdict.counts {
        let _ = write!(
            line,
            " {}={count}",
            what.replace(", ", "-").replace(' ', "-")
        );
    }
    let _ = write!(line, " violations={}", verdict.violations.len());
    line
}

/// A row of the table in docs/guides/chaos.md.
fn row(evidence: &Evidence, verdict: &Verdict) -> String {
    let count = |what: &str| verdict.counts.get(what).copied().unwrap_or_default();
    let kinds: Vec<String> = faults(evidence)
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} |",
        evidence.run.shape.name(),
        evidence.run.seed,
        evidence.run.minutes,
        evidence.bounced.len(),
        evidence.faults.len(),
        kinds.join(", "),
        count("accepted twice, in flight at a fault"),
        verdict.violations.len(),
    )
}
