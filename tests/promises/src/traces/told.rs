//! What a process reports about its telemetry: its collector, what is lost, and what it does not
//! understand.

use harness::process::run_in;

use super::*;

/// How many times as fast as real time the demo runs. Its mail takes weeks.
const SPEED: &str = "360000";

/// Returns the first line of the log that contains this text, once there is one.
async fn line(process: &Redeliver, text: &str) -> Value {
    let line = eventually(text, async || {
        let log = process.log();
        let line = log.lines().find(|line| line.contains(text));
        line.map(str::to_owned)
    })
    .await;
    serde_json::from_str(&line).unwrap()
}

#[tokio::test]
async fn a_process_names_its_collector_and_its_log_has_no_part_of_an_address() {
    let collector = Collector::http().await;
    let fleet = Fleet::start("").await;
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url().into()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".into()),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem".into()),
    ];
    let arguments = ["worker", "--allow-log"];
    let worker = Redeliver::start_in(&environment, &arguments, &fleet.config);
    let start = line(&worker, "telemetry is sent to a collector").await;
    assert_eq!(start["traces"], format!("{}/v1/traces", collector.url()));
    assert_eq!(start["protocol"], "http/protobuf");
    assert_eq!(start["sampler"], "always_on");
    let unsupported = line(&worker, "are not supported").await;
    assert_eq!(unsupported["variables"], "OTEL_EXPORTER_OTLP_CERTIFICATE");

    fleet.post("x@solo.example", SAMPLED).await;
    let sent = line(&worker, "would send").await;
    assert_eq!(sent["destination"], "solo.example");
    assert_eq!(sent["job"].as_str().map(str::len), Some(16), "{sent}");
    assert_eq!(sent["target"], "senders::log");
    assert!(!sent.to_string().contains('@'), "{sent}");
    collector.wait_for("process", 1).await;
    let is_there = |log: &opentelemetry_proto::tonic::logs::v1::LogRecord| {
        log.attributes
            .iter()
            .any(|attribute| attribute.key == "bytes")
    };
    eventually("the line at the collector", async || {
        collector.logs().iter().any(is_there).then_some(())
    })
    .await;
    for log in collector.logs() {
        assert!(
            log.time_unix_nano > 0 && log.event_name.is_empty(),
            "{log:?}"
        );
    }
    assert!(!collector.contains("@solo.example"));
    let agents = collector.agents();
    assert!(
        agents.len() == 1 && agents[0].starts_with("redeliver/"),
        "{agents:?}"
    );
}

#[tokio::test]
async fn a_collector_that_refuses_is_named_with_its_signal_the_cause_and_what_was_lost() {
    let collector = Collector::grpc().await;
    collector.answer_with(Answer::Refuse);
    let settings = format!("{}logs = false\n", telemetry(&collector, "grpc"));
    let (fleet, peer) = (Fleet::start(&settings).await, SmtpPeer::agreeable().await);
    let worker = fleet.worker(&relay(&peer));
    fleet.post(RECIPIENT, SAMPLED).await;
    let warning = line(&worker, "does not accept data").await;
    assert_eq!(warning["signal"], "traces");
    assert_eq!(warning["endpoint"], collector.url());
    assert_eq!(warning["cause"], "it answered with an error");
    assert!(warning["lost"].as_u64() > Some(0), "{warning}");
    collector.answer_with(Answer::Keep);
    fleet.post("another@example.com", SAMPLED).await;
    let over = line(&worker, "accepts data again").await;
    assert_eq!(over["signal"], "traces");
    assert!(over["lost"].as_u64() >= warning["lost"].as_u64(), "{over}");
}

#[tokio::test]
async fn a_filter_of_the_log_that_selects_no_lines_is_refused_with_its_name() {
    let folder = TempDir::with_prefix("redeliver-filter-").unwrap();
    for (variable, filter, name) in [
        ("RUST_LOG", "redeliver=loud", "RUST_LOG"),
        ("RUST_LOG", "[[", "RUST_LOG"),
        ("REDELIVER_LOG__FILTER", "info,,x==", "log.filter"),
    ] {
        let environment = [(variable, filter)];
        let output = run_in(folder.path(), &environment, &["worker", "--allow-log"]).await;
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{text}");
        assert!(
            text.contains(name) && text.contains("worker=debug"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn the_demo_warns_if_its_collector_is_gone() {
    let folder = TempDir::with_prefix("redeliver-demo-").unwrap();
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    let arguments = ["demo", "--speed", SPEED];
    let output = run_in(folder.path(), &environment, &arguments).await;
    let text = String::from_utf8(output.stderr).unwrap();
    let warning = text.lines().find(|line| line.starts_with("warning: "));
    let warning = warning.unwrap_or_else(|| panic!("{text}"));
    let expected = format!("spans did not reach the collector at {endpoint}");
    assert!(warning.contains(&expected), "{warning}");
}
