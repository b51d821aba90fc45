//! The page of metrics is made from their catalog. `make pages` writes it.

use std::fmt::Write;

use telemetry::metrics::catalog::{About, CATALOG, Described};

use crate::pages::compare;

const PAGE: &str = "docs/reference/metrics.md";

const INTRODUCTION: &str = "# Metrics

Schedulers and workers answer `GET /metrics`.
The format is OpenMetrics, with exemplars, if `Accept` asks for it, as Prometheus does.
Otherwise it is the classic text format of Prometheus.
Metrics are always on: recording them costs less than a microsecond per job.
`make pages` writes this page from the code; `make check` compares the two.

| process | address | access |
| --- | --- | --- |
| scheduler | its API (`scheduler.listen`) | a token with the scope `read`, if there are tokens |
| worker | `worker.listen`, which is off by default | open: use a private address |

A scrape reads nothing from Redis.
One scheduler reads the figures of the fleet every 15 seconds, and all schedulers report the same.
With more than some twenty thousand destinations they are read less often.
If they cannot be read for a minute, they are absent.
Most counters are absent until they count something; those without labels begin at 0.
So `increase()` and `rate()` do not see the first event of a series with labels
([telemetry](../guides/telemetry.md#metrics)).

No label contains an address.
`destination` is the name of a configured provider,
one of the 50 other destinations that are busiest in this process, or `other`.
A destination that becomes one of the busiest begins at 0, and the one that it replaces disappears.
`reader` is the name of a token, for the 20 readers of events that get the most.
Attempts that are sent to a collector are exemplars, with their `trace_id`,
of `redeliver_attempts_total` and `redeliver_attempt_duration_seconds`.
";

#[test]
fn the_page_of_metrics_matches_the_catalog() {
    compare(PAGE, &page(), "the catalog of metrics");
}

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (title, about) in [
        ("Each process", About::Process),
        ("Each scheduler", About::Scheduler),
        ("Each worker", About::Worker),
        ("The fleet, from each scheduler", About::Fleet),
    ] {
        write!(
            page,
            "\n## {title}\n\n| metric | kind | labels | unit | meaning |\n\
             | --- | --- | --- | --- | --- |\n"
        )
        .unwrap();
        for described in CATALOG.iter().filter(|described| described.about == about) {
            row(&mut page, described);
        }
    }
    page
}

fn row(page: &mut String, described: &Described) {
    let labels: Vec<String> = described
        .labels
        .iter()
        .map(|label| format!("`{label}`"))
        .collect();
    writeln!(
        page,
        "| `{}` | {} | {} | {} | {} |",
        described.name,
        described.kind.as_str(),
        labels.join(", "),
        described.unit().unwrap_or(""),
        described.help
    )
    .unwrap();
}
