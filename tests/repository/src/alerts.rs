//! The alerts and dashboards in `deploy/` use only metrics that exist, and lead to sections of the
//! runbooks that exist. Whether Prometheus accepts them is tested in `tests/promises`.

use std::collections::BTreeSet;
use std::fs;

use telemetry::metrics::catalog::{CATALOG, Described, Kind};

use crate::cargo::root;

const RULES: &str = "deploy/alerts/redeliver.rules.yml";
const CASES: &str = "deploy/alerts/redeliver.test.yml";
const RUNBOOKS: &str = "docs/guides/runbooks.md";
const DASHBOARDS: [&str; 3] = [
    "deploy/dashboards/fleet.json",
    "deploy/dashboards/destinations.json",
    "deploy/dashboards/retries.json",
];

/// The labels that Prometheus adds.
const OF_ALL: [&str; 3] = ["instance", "job", "le"];

/// What Prometheus adds to the name of a histogram.
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_count", "_sum"];

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

#[test]
fn alerts_dashboards_and_runbooks_name_only_metrics_and_labels_that_exist() {
    for path in [RULES, CASES, RUNBOOKS].iter().chain(&DASHBOARDS) {
        let text = read(path);
        let mut rest = text.as_str();
        while let Some(at) = rest.find("redeliver_") {
            rest = &rest[at..];
            let end = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
            let name = &rest[..end];
            rest = &rest[end..];
            let metric =
                metric(name).unwrap_or_else(|| panic!("{path}: there is no metric {name}"));
            for label in labels(rest) {
                let is_of_all = OF_ALL.contains(&label);
                assert!(
                    is_of_all || metric.labels.contains(&label),
                    "{path}: {name} has no label {label}"
                );
            }
        }
    }
}

#[test]
fn alerts_and_dashboards_group_only_by_labels_that_exist() {
    let of_metrics = CATALOG.iter().flat_map(|metric| metric.labels);
    let known: Vec<&str> = of_metrics.chain(&OF_ALL).copied().collect();
    for path in [RULES].iter().chain(&DASHBOARDS) {
        let text = read(path);
        let mut count = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            for group in line.split("by (").skip(1) {
                let (labels, _) = group.split_once(')').unwrap();
                for label in labels.split(',').map(str::trim) {
                    assert!(known.contains(&label), "{path}: no metric has {label}");
                    count += 1;
                }
            }
        }
        assert!(count > 0, "{path} was read");
    }
}

/// Returns the metric that a series belongs to.
fn metric(series: &str) -> Option<&'static Described> {
    let of_histogram = |name: &str| {
        OF_HISTOGRAMS
            .iter()
            .any(|suffix| series.strip_suffix(suffix) == Some(name))
    };
    CATALOG.iter().find(|metric| match metric.kind {
        Kind::Histogram => series == metric.name || of_histogram(metric.name),
        Kind::Counter | Kind::Gauge => series == metric.name,
    })
}

/// Returns the labels of a selector, if a text starts with one: `{a="1",b=~"2"}`.
fn labels(text: &str) -> impl Iterator<Item = &str> {
    let selector = text.strip_prefix('{').and_then(|rest| rest.split_once('}'));
    let conditions = selector.map_or("", |(conditions, _)| conditions).split(',');
    let labels = conditions.filter_map(|condition| condition.split(['=', '!']).next());
    labels.map(str::trim).filter(|label| !label.is_empty())
}

#[test]
fn what_alerts_and_dashboards_read_from_recording_rules_is_recorded() {
    let rules = read(RULES);
    let recorded: BTreeSet<String> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "))
        .map(str::to_owned)
        .collect();
    for path in [RULES, CASES].iter().chain(&DASHBOARDS) {
        for name in names(&read(path), "redeliver:") {
            assert!(recorded.contains(&name), "{path}: {name} is not recorded");
        }
    }
}

#[test]
fn every_alert_is_complete_and_tested() {
    let (rules, cases) = (read(RULES), read(CASES));
    let (sections, mut count) = (sections(), 0);
    for alert in rules.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        let has = |start: &str| alert.lines().any(|line| line.trim().starts_with(start));
        assert!(
            has("severity: critical") || has("severity: warning"),
            "{name} has a severity"
        );
        for annotation in ["summary: ", "description: "] {
            assert!(has(annotation), "{name} has the annotation {annotation}");
        }
        let start = format!("runbook: {RUNBOOKS}#");
        let section = alert
            .lines()
            .find_map(|line| line.trim().strip_prefix(&start));
        let section = section.unwrap_or_else(|| panic!("{name} names a section of {RUNBOOKS}"));
        assert!(sections.contains(section), "{RUNBOOKS} has no {section}");

        let start = format!("\"{name}: ");
        let of_alert = |case: &&str| case.starts_with(&start);
        let (fires, silent): (Vec<&str>, Vec<&str>) = cases
            .split("- name: ")
            .filter(of_alert)
            .partition(|case| case.contains("exp_labels"));
        assert!(
            !fires.is_empty(),
            "{CASES} has a case in which {name} fires"
        );
        assert!(
            silent.iter().any(|case| case.contains("exp_alerts: []")),
            "{CASES} has a case in which {name} is silent"
        );
        count += 1;
    }
    assert!(count > 10, "{RULES} was read: {count}");
}

#[test]
fn the_links_of_dashboards_lead_to_sections_of_the_runbooks() {
    let sections = sections();
    for path in DASHBOARDS {
        let text = read(path);
        let links: Vec<&str> = text.split("${runbooks}#").skip(1).collect();
        assert!(!links.is_empty(), "{path} has links");
        for link in links {
            let section = link.split('"').next().unwrap();
            assert!(
                sections.contains(section),
                "{path}: {RUNBOOKS} has no {section}"
            );
        }
    }
}

/// Whether a name may contain this letter.
fn is_part(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_:".contains(letter)
}

/// Returns the names in a text that start like this.
fn names(text: &str, start: &str) -> BTreeSet<String> {
    text.split(|letter| !is_part(letter))
        .filter(|word| word.len() > start.len() && word.starts_with(start))
        .map(|word| word.trim_end_matches(':').to_owned())
        .collect()
}

/// Returns how links name the sections of the runbooks.
fn sections() -> BTreeSet<String> {
    let text = read(RUNBOOKS);
    let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
    headings
        .map(|heading| heading.to_lowercase().replace(' ', "-"))
        .collect()
}
