//! Nothing that a campaign leaves in logs, spans and metrics contains one of its addresses.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use harness::http::client;
use harness::otlp::Collector;
use harness::process::Redeliver;
use harness::wait::eventually;
use regex::{Regex, RegexBuilder};
use serde_json::Value;

/// How many times as fast as real time the demo runs. Its mail takes weeks.
const SPEED: &str = "360000";

/// The room for the automaton that looks for all addresses at once.
const SEARCH_BYTES: usize = 64 << 20;

/// Finds what must not appear anywhere: the addresses of a campaign, their local parts, and the ids
/// of its messages, in any case of ASCII letters.
struct Secrets(Regex);

impl Secrets {
    fn of(campaign: &str) -> Self {
        let mut secrets = Vec::new();
        let bounces = campaign
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        for bounce in bounces.collect::<Vec<Value>>() {
            let field = |name: &str| bounce[name].as_str().unwrap_or_default().to_lowercase();
            let (recipient, from) = (field("recipient"), field("envelope_from"));
            let local_part = recipient.rsplit_once('@').map(|(local_part, _)| local_part);
            // The addresses of recipients contain their local parts.
            secrets.extend(local_part.map(|text| regex::escape(text.trim_matches('"'))));
            secrets.push(regex::escape(&from));
            secrets.push(regex::escape(field("message_id").trim_matches(['<', '>'])));
        }
        secrets.retain(|secret| !secret.is_empty());
        secrets.sort();
        secrets.dedup();
        assert!(secrets.len() > 5_000, "{}", secrets.len());
        let mut search = RegexBuilder::new(&secrets.join("|"));
        Self(search.size_limit(SEARCH_BYTES).build().unwrap())
    }

    /// Returns the first lines that contain a secret.
    fn found_in(&self, text: &str) -> Vec<String> {
        let lines = text.split('\n').map(str::to_lowercase);
        lines.filter(|line| self.0.is_match(line)).take(5).collect()
    }
}

#[tokio::test]
async fn no_address_of_a_campaign_is_in_a_log_a_span_or_a_metric() {
    let collector = Collector::grpc().await;
    let environment = [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            OsString::from(collector.url()),
        ),
        ("RUST_LOG", "trace".into()),
    ];
    let demo = Redeliver::start_in(&environment, &["demo", "--keep", "--speed", SPEED], "");
    let address = Regex::new(r"metrics of the (?:scheduler|worker): +(http://\S+/metrics)");
    let address = address.unwrap();
    let metrics_at = eventually("the report of the demo", async || {
        let output = demo.output();
        let found = address.captures_iter(&output);
        let found: Vec<String> = found.map(|found| found[1].to_owned()).collect();
        (found.len() == 2).then_some(found)
    })
    .await;
    let [mut of_scheduler, mut of_worker] = [(); 2].map(|()| String::new());
    for accept in ["text/plain", "application/openmetrics-text;version=1.0.0"] {
        for (url, text) in metrics_at.iter().zip([&mut of_scheduler, &mut of_worker]) {
            let request = client().get(url).header("accept", accept);
            text.push_str(&request.send().await.unwrap().text().await.unwrap());
        }
    }
    collector.wait_for("process", 1_000).await;
    demo.signal("-TERM").await;
    eventually("the end of the demo", async || {
        client().get(&metrics_at[0]).send().await.err()
    })
    .await;
    let campaign = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cli/demo/campaign.ndjson");
    let secrets = Secrets::of(&fs::read_to_string(campaign).unwrap());

    let log = demo.log();
    // The demo prints one command that is about a job, for the person who runs it.
    let (command, output): (Vec<String>, Vec<String>) = demo
        .output()
        .lines()
        .map(str::to_owned)
        .partition(|line| line.contains("redeliver jobs trace --api http://"));
    assert_eq!(command.len(), 1, "{command:?}");
    let output = output.join("\n");
    for (what, text, expected) in [
        ("log", log, "DEBUG"),
        ("output", output, "every bounce ended exactly once"),
        (
            "scheduler's metrics",
            of_scheduler,
            "redeliver_bounces_total{",
        ),
        ("worker's metrics", of_worker, "redeliver_attempts_total{"),
        (
            "spans and logs at the collector",
            collector.received(),
            "conversation_id",
        ),
    ] {
        assert!(text.contains(expected), "the {what}: {text:.2000}");
        assert_eq!(secrets.found_in(&text), [""; 0], "in the {what}");
    }
    assert!(!collector.logs().is_empty());
}

#[test]
fn a_search_finds_an_address_in_the_middle_of_a_line_in_any_case() {
    let campaign = (0..3_000).map(|n| {
        format!(
            "{{\"recipient\":\"jo.p{n}x@example.com\",\"message_id\":\"<m{n}x@example.org>\"}}\n"
        )
    });
    let secrets = Secrets::of(&campaign.collect::<String>());
    let found = secrets.found_in("fine\nthe job of JO.p77x%40example.com\nm8x@example.orgs\n");
    assert_eq!(found.len(), 2, "{found:?}");
}
