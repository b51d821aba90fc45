//! Tests of all metrics together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::catalog::CATALOG;
use super::*;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn attempted(outcome: &Outcome, span: Option<TraceContext>) -> Attempted<'_> {
    Attempted {
        outcome,
        number: 2,
        sender: "smtp",
        destination: "example.com",
        took: Duration::from_millis(30),
        span,
    }
}

fn deferred() -> Outcome {
    Outcome::Deferred(Reply::parse("452 4.2.2 mailbox full"))
}

/// Records everything once.
fn all() -> Metrics {
    let metrics = Metrics::default();
    metrics.version("1.2.3");
    metrics.bounce("scheduled", "api", &Reply::parse("452 4.2.2 mailbox full"));
    metrics.attempt(&attempted(&deferred(), TraceContext::parse(TRACEPARENT)));
    metrics.verdict("retry");
    metrics.conversation(&Transcript {
        took_ms: vec![(Phase::Connect, 12), (Phase::Rcpt, 3)],
        ..Transcript::default()
    });
    metrics.claimed(Duration::from_millis(4));
    metrics.lapsed(1);
    metrics.stale(1);
    metrics.own_trouble("default", &Outcome::Unreadable(String::new()));
    metrics.content_read(ContentRead::Hit);
    metrics.permits(3, 5);
    metrics.draining(false);
    metrics.standing_changed(Standing::Inactive, 1);
    metrics.redis().called("claim", Duration::from_micros(300));
    metrics.redis().failed("oom");
    metrics.redis().durable_write("aof", true);
    metrics.lost("traces", Lost::default());
    metrics.upkeep("repair", true);
    metrics.failed_sign_in();
    metrics.events_read(2);
    metrics.event_streams(&[OpenStream {
        reader: "crm".into(),
        lag: Duration::from_secs(3),
        sent: 2,
    }]);
    metrics.fleet(Some(&FleetReading {
        jobs: 2,
        memory_used: Some(2_000),
        memory_max: Some(10_000),
        evicted: Some(0),
        ..FleetReading::default()
    }));
    metrics
}

/// Returns the labels of each metric in a text of the classic format, without `le`.
fn labels(classic: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    let mut current = String::new();
    for line in classic.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            current = described.split(' ').next().unwrap().to_owned();
            found.insert(current.clone(), BTreeSet::new());
        }
        let Some((_, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let (labels, _) = labels.rsplit_once('}').unwrap();
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (name, _) = label.split_once('=').unwrap();
            found.get_mut(&current).unwrap().insert(name.to_owned());
        }
    }
    for labels in found.values_mut() {
        labels.remove("le");
    }
    found
}

#[test]
fn every_metric_has_the_name_the_kind_and_the_labels_of_the_catalog() {
    let classic = all().write(TextFormat::Classic);
    let found = labels(&classic);
    let wanted: BTreeMap<String, BTreeSet<String>> = CATALOG
        .iter()
        .map(|described| {
            let labels = described.labels.iter().map(|label| (*label).to_owned());
            (described.name.to_owned(), labels.collect())
        })
        .collect();
    assert_eq!(found, wanted);
    for described in CATALOG {
        let line = format!("# TYPE {} {}\n", described.name, described.kind.as_str());
        assert!(classic.contains(&line), "{line}");
    }
}

#[test]
fn a_traced_attempt_is_an_exemplar_of_its_counter_and_of_its_duration() {
    let metrics = all();
    metrics.attempt(&attempted(&deferred(), None));
    let text = metrics.write(TextFormat::OpenMetrics);
    let exemplar = " # {trace_id=\"0af7651916cd43dd8448eb211c80319c\"} ";
    let counter = "redeliver_attempts_total{outcome=\"deferred\",class=\"4\",attempt=\"2\",\
                   sender=\"smtp\",destination=\"example.com\"} 2";
    assert!(text.contains(&format!("{counter}{exemplar}1")), "{text}");
    let bucket = "redeliver_attempt_duration_seconds_bucket{le=\"0.1\",sender=\"smtp\"} 2";
    assert!(text.contains(&format!("{bucket}{exemplar}0.03")), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert!(!metrics.write(TextFormat::Classic).contains("trace_id"));
}

#[test]
fn a_phase_that_ran_twice_for_a_message_is_one_observation() {
    let metrics = Metrics::default();
    metrics.conversation(&Transcript {
        took_ms: vec![
            (Phase::Lookup, 1_000),
            (Phase::Mail, 1_000),
            (Phase::Mail, 500),
            (Phase::Lookup, 1_000),
        ],
        ..Transcript::default()
    });
    let text = metrics.write(TextFormat::Classic);
    for line in [
        "redeliver_phase_duration_seconds_count{phase=\"mail\"} 1\n",
        "redeliver_phase_duration_seconds_sum{phase=\"mail\"} 1.5\n",
        "redeliver_phase_duration_seconds_count{phase=\"lookup\"} 1\n",
        "redeliver_phase_duration_seconds_sum{phase=\"lookup\"} 2.0\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}

#[test]
fn figures_of_the_fleet_are_absent_without_a_reading() {
    let metrics = Metrics::default();
    assert!(
        !metrics
            .write(TextFormat::Classic)
            .contains("redeliver_due_jobs")
    );
    metrics.fleet(Some(&FleetReading {
        due: 7,
        ..FleetReading::default()
    }));
    let text = metrics.write(TextFormat::Classic);
    assert!(text.contains("\nredeliver_due_jobs 7"), "{text}");
    assert!(
        text.contains("redeliver_pending_jobs{horizon=\"now\"} 7"),
        "{text}"
    );
    assert!(!text.contains("redeliver_redis_memory_max_bytes"), "{text}");
    metrics.fleet(None);
    assert!(
        !metrics
            .write(TextFormat::Classic)
            .contains("redeliver_due_jobs")
    );
}

#[test]
fn a_destination_that_is_no_longer_named_has_no_series() {
    let metrics = Metrics::default();
    let outcome = deferred();
    let mut series = 0;
    for n in 0..200 {
        for _ in 0..2 * n {
            metrics.attempt(&Attempted {
                destination: &format!("host{n}.example"),
                ..attempted(&outcome, None)
            });
        }
        let text = metrics.write(TextFormat::Classic);
        series = text.matches("redeliver_attempts_total{").count();
        assert!(series <= destinations::NAMED_MAX + 1, "{series}");
    }
    assert_eq!(series, destinations::NAMED_MAX + 1);
}

#[test]
fn recording_an_attempt_takes_microseconds_even_without_optimization() {
    const TIMES: u32 = 20_000;
    let metrics = Metrics::default();
    let outcome = deferred();
    let began = Instant::now();
    for _ in 0..TIMES {
        metrics.attempt(&attempted(&outcome, None));
    }
    let each = began.elapsed() / TIMES;
    assert!(each < Duration::from_micros(50), "{each:?}");
}
