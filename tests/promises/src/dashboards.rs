//! The queries of the dashboards are valid, and each has an answer from a Prometheus that scrapes a
//! fleet with all kinds of work and trouble.

use std::fs;
use std::time::{Duration, Instant};

use harness::bounce::{FULL, bounce};
use harness::http::client;
use harness::port::free_port;
use harness::process::Redeliver;
use harness::prometheus::Prometheus;
use harness::servers::programs;
use harness::smtp::{Act, SmtpPeer, agree};
use harness::wait::eventually;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::alerts::deploy;
use crate::every_script::Server;

/// The dashboards, by the names of their files.
const DASHBOARDS: [&str; 3] = ["fleet", "destinations", "retries"];

const POLICY: &str = "[[row]]\nname = \"soon\"\nstatus = \"4.3.1\"\nscope = \"mailbox\"\n\
    delays = [\"1s\", \"1s\"]\njitter = \"0%\"\nhint = \"ignore\"\nfinal = \"inactive\"\n";

/// The memory that Redis may have, except while it is full.
const ENOUGH: &str = "500mb";

/// How long it may take until every query has an answer. The figures of the fleet are read every 15
/// seconds.
const TIMEOUT: Duration = Duration::from_secs(90);

/// How many rounds later an address that was retired is reinstated.
const REINSTATED_AFTER: usize = 20;

/// Returns all queries of the dashboards. Each has the values of Grafana's variables.
fn queries() -> Vec<String> {
    let mut queries = Vec::new();
    for dashboard in DASHBOARDS {
        let path = deploy().join(format!("dashboards/{dashboard}.json"));
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        for target in panels
            .iter()
            .filter_map(|panel| panel["targets"].as_array())
            .flatten()
        {
            let query = target["expr"].as_str().unwrap();
            let query = query
                .replace("$__rate_interval", "1m")
                .replace("$__range", "5m")
                .replace("$destination", ".*");
            assert!(!query.contains('$'), "a variable without a value: {query}");
            queries.push(query);
        }
    }
    assert!(queries.len() > 40, "{queries:?}");
    queries
}

/// How the mail host of this test answers.
fn mail_host(command: &str) -> Act {
    if command.starts_with("RCPT") && command.contains("full") {
        Act::Say(FULL)
    } else if command.starts_with("RCPT") && command.contains("gone") {
        Act::Say("550 5.1.1 User unknown")
    } else {
        agree(command)
    }
}

/// Posts a bounce for each kind of end that an attempt may have. `round` makes their addresses new.
async fn post(api: &str, round: usize) {
    let mut bounces = Vec::new();
    for kind in ["fine", "full", "gone", "away", "missing"] {
        let recipient = format!("{kind}{round}@example.com");
        let mut mail = bounce(&recipient, &format!("{kind}{round}"), FULL);
        mail["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
        match kind {
            "away" => mail["route"] = json!("away"),
            "missing" => mail["content"] = json!({"file": "/missing"}),
            _ => {}
        }
        bounces.push(mail);
    }
    let url = format!("{api}/v1/bounces");
    let _ = client().post(url).json(&bounces).send().await;
    let retired = round.saturating_sub(REINSTATED_AFTER);
    let url = format!("{api}/v1/addresses/full{retired}@example.com/reinstate");
    let _ = client().post(url).send().await;
}

#[tokio::test]
async fn no_panel_is_empty_when_prometheus_scrapes_a_fleet_with_all_kinds_of_work() {
    let server = Server::start(&programs()[0]).await;
    server.cli(&["CONFIG", "SET", "maxmemory", ENOUGH]);
    let peer = SmtpPeer::start(|received| mail_host(&received.command)).await;
    let folder = TempDir::with_prefix("redeliver-policy-").unwrap();
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, POLICY).unwrap();
    let [scheduler, worker] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let (host, port, away) = (peer.address.ip(), peer.address.port(), free_port());
    let config = format!(
        "[redis]\n{}shards = 4\n[policy]\nfile = \"{}\"\n[scheduler]\nlisten = \"{scheduler}\"\n\
         [worker]\nlisten = \"{worker}\"\n[upkeep]\ncheck_servers = \"* * * * * *\"\n\
         [telemetry]\nendpoint = \"http://127.0.0.1:{away}\"\n\
         [[route]]\nname = \"default\"\nsender = \"smtp\"\nhost = \"{host}\"\nport = {port}\n\
         [[route]]\nname = \"away\"\nsender = \"smtp\"\nhost = \"{host}\"\nport = {away}\n",
        server.redis(),
        policy.display()
    );
    let _processes = ["scheduler", "worker"].map(|role| Redeliver::start(role, &config));
    let api = format!("http://{scheduler}");
    eventually("the scheduler", async || {
        let ready = client().get(format!("{api}/readyz")).send().await.ok()?;
        ready.status().is_success().then_some(())
    })
    .await;

    let events = client().get(format!("{api}/v1/events")).send();
    let _reader = events.await.unwrap();
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    post(&api, 0).await;
    server.cli(&["CONFIG", "SET", "maxmemory", ENOUGH]);

    let rules = deploy().join("alerts/redeliver.rules.yml");
    let targets = [
        ("redeliver-scheduler", &*scheduler),
        ("redeliver-worker", &*worker),
    ];
    let prometheus = Prometheus::start(&targets, &rules, "200ms");
    let deadline = Instant::now() + TIMEOUT;
    let (mut empty, mut round) = (queries(), 1);
    while !empty.is_empty() {
        assert!(Instant::now() < deadline, "no answers to {empty:#?}");
        post(&api, round).await;
        round += 1;
        let mut still_empty = Vec::new();
        for query in empty {
            let series = prometheus.query(&query).await;
            if series.is_none_or(|series| series.is_empty()) {
                still_empty.push(query);
            }
        }
        empty = still_empty;
    }
}
