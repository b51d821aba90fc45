//! Prometheus keeps the trace ids of attempts as exemplars, and they lead to traces that a
//! collector has.

use std::collections::BTreeSet;

use harness::bounce::FULL;
use harness::otlp::Collector;
use harness::prometheus::Prometheus;
use harness::smtp::{Act, SmtpPeer};
use harness::wait::eventually;

use super::Fleet;
use crate::alerts::deploy;

#[tokio::test]
async fn exemplars_in_prometheus_have_the_ids_of_traces_that_the_collector_received() {
    let peer = SmtpPeer::agreeable_except("RCPT", Act::Say(FULL)).await;
    let collector = Collector::grpc().await;
    let telemetry = format!("[telemetry]\nendpoint = \"{}\"\n", collector.url());
    let fleet = Fleet::start(&peer, &telemetry).await;
    let [scheduler, worker] =
        [&fleet.scheduler, &fleet.worker].map(|url| url.trim_start_matches("http://"));
    let rules = deploy().join("alerts/redeliver.rules.yml");
    let targets = [
        ("redeliver-scheduler", scheduler),
        ("redeliver-worker", worker),
    ];
    let prometheus = Prometheus::start(&targets, &rules, "200ms");
    fleet.post().await;
    for name in [
        "redeliver_attempts_total",
        "redeliver_attempt_duration_seconds_bucket",
    ] {
        let kept: BTreeSet<String> = eventually("exemplars", async || {
            let kept = prometheus.exemplars(name).await?;
            (!kept.is_empty()).then_some(kept)
        })
        .await;
        eventually("the traces of the exemplars", async || {
            let spans = collector.spans();
            let received: BTreeSet<String> = spans
                .iter()
                .filter(|received| received.span.name.starts_with("process"))
                .map(|received| hex(&received.span.trace_id))
                .collect();
            received.is_superset(&kept).then_some(())
        })
        .await;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
