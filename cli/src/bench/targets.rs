//! The target of each figure, and the rows of the table in docs/guides/benchmarks.md.

use super::round;

/// The bound that a figure should keep.
#[derive(Clone, Copy, Debug)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

use Target::{AtLeast, AtMost};

/// The targets, by mode and figure. Figures that are not listed are for information only.
const TARGETS: [(&str, &str, Target); 35] = [
    ("ingest", "redis us per job", AtMost(10.0)),
    ("cycle", "jobs per second", AtLeast(100_000.0)),
    ("cycle", "redis us per job", AtMost(8.0)),
    ("cycle", "worker us per job", AtMost(9.0)),
    ("cycle-zipf", "jobs per second", AtLeast(80_000.0)),
    ("cycle-zipf", "redis us per job", AtMost(11.0)),
    ("retry", "jobs per second", AtLeast(40_000.0)),
    ("traces", "more worker cpu, percent", AtMost(10.0)),
    ("traces", "off: percent of worker cpu", AtMost(1.0)),
    ("memory", "bytes of redis per job", AtMost(500.0)),
    ("lateness", "ms late, p99", AtMost(20.0)),
    (
        "backlog",
        "rate at the most / at the least, percent",
        AtLeast(85.0),
    ),
    ("skew", "p99 beside / alone", AtMost(1.5)),
    ("skew-accounts", "beside: ms beyond the bound", AtMost(0.0)),
    ("classify", "replies per second", AtLeast(300_000.0)),
    ("http", "bounces per second", AtLeast(50_000.0)),
    ("http-one", "bounces per second", AtLeast(50_000.0)),
    (
        "limit",
        "limit 5, 1 worker: deferred, percent",
        AtMost(10.0),
    ),
    (
        "limit",
        "limit 5, 4 workers: deferred, percent",
        AtMost(10.0),
    ),
    (
        "limit",
        "limit 20, 1 worker: deferred, percent",
        AtMost(10.0),
    ),
    (
        "limit",
        "limit 20, 4 workers: deferred, percent",
        AtMost(10.0),
    ),
    (
        "limit",
        "limit 50, 1 worker: deferred, percent",
        AtMost(10.0),
    ),
    (
        "limit",
        "limit 50, 4 workers: deferred, percent",
        AtMost(10.0),
    ),
    ("limit", "limit 5, 1 worker: used, percent", AtLeast(70.0)),
    ("limit", "limit 5, 4 workers: used, percent", AtLeast(70.0)),
    ("limit", "limit 20, 1 worker: used, percent", AtLeast(70.0)),
    ("limit", "limit 20, 4 workers: used, percent", AtLeast(70.0)),
    ("limit", "limit 50, 1 worker: used, percent", AtLeast(70.0)),
    ("limit", "limit 50, 4 workers: used, percent", AtLeast(70.0)),
    (
        "stall",
        "64 permits: cold start, ms late, p99",
        AtMost(10_000.0),
    ),
    ("stall", "64 permits: warm, ms late, p99", AtMost(2_000.0)),
    (
        "stall",
        "256 permits: cold start, ms late, p99",
        AtMost(10_000.0),
    ),
    ("stall", "256 permits: warm, ms late, p99", AtMost(2_000.0)),
    ("smtp", "of smtp-source, percent", AtLeast(50.0)),
    ("smtp", "times Postfix's queue", AtLeast(5.0)),
];

/// The header of the table.
pub(crate) const HEAD: &str =
    "| mode | figure | measured | to reach | |\n| --- | --- | --- | --- | --- |";

/// Returns a row of the table: the median of a figure, its least and most value, and its target.
pub(crate) fn row(mode: &str, figure: &str, [least, median, most]: [f64; 3]) -> String {
    let target = TARGETS
        .iter()
        .find(|(target_mode, name, _)| *target_mode == mode && *name == figure)
        .map(|(_, _, target)| *target);
    let (to_reach, mark) = match target {
        Some(AtLeast(bound)) => (
            format!("≥ {}", round(bound)),
            if median >= bound { "✓" } else { "" },
        ),
        Some(AtMost(bound)) => (
            format!("≤ {}", round(bound)),
            if median <= bound { "✓" } else { "" },
        ),
        None => (String::new(), ""),
    };
    let (least, median, most) = (round(least), round(median), round(most));
    format!("| `{mode}` | {figure} | {median} ({least} to {most}) | {to_reach} | {mark} |")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_target_that_is_met_is_marked() {
        let row = |median| row("cycle", "redis us per job", [7.0, median, 9.0]);
        assert_eq!(
            row(8.0),
            "| `cycle` | redis us per job | 8.00 (7.00 to 9.00) | ≤ 8.00 | ✓ |"
        );
        assert_eq!(
            row(8.5),
            "| `cycle` | redis us per job | 8.50 (7.00 to 9.00) | ≤ 8.00 |  |"
        );
        assert!(super::row("cycle", "no such figure", [1.0; 3]).ends_with("|  |  |"));
    }
}
