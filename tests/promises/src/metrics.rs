//! Schedulers and workers report metrics, which Prometheus can scrape in both of its formats. They
//! contain no address. All schedulers report the same figures of the fleet, and no scrape reads
//! Redis.

use std::io::Write;
use std::process::{Command, Stdio};

use config::model::Config;
use domain::account::Accounts;
use harness::bounce::{FULL, bounce};
use harness::http::{Http, client};
use harness::otlp::Collector;
use harness::port::free_port;
use harness::process::Redeliver;
use harness::smtp::{Act, SmtpPeer};
use harness::wait::eventually;
use harness::world::World;
use serde_json::json;
use signing::api_token::{Grant, Scope, TokenHash};
use tempfile::TempDir;
use tokio::net::TcpStream;

mod exemplars;
mod figures;
mod hostile;
mod readers;
mod redis;

const LOCAL_PART: &str = "jo.a.secret.name";
const RECIPIENT: &str = "jo.a.secret.name@example.com";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0";

/// The schedule of the tests: an attempt a second.
const POLICY: &str = "[[row]]\nname = \"each-second\"\nstatus = \"4.3.1\"\nscope = \"host\"\n\
    delays = [\"1s\", \"1s\", \"1h\"]\njitter = \"0%\"\nhint = \"ignore\"\n\
    final = \"unavailable\"\n";

/// Returns the text of a scrape, and its content type.
async fn scrape(base: &str, accept: &str) -> (String, String) {
    let request = client()
        .get(format!("{base}/metrics"))
        .header("accept", accept);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let kind = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    (response.text().await.unwrap(), kind)
}

/// Returns the value of one series in the classic format; 0 if it is absent. All labels are named.
async fn value(base: &str, series: &str) -> f64 {
    let (text, _) = scrape(base, "").await;
    of(&text, series).unwrap_or_default()
}

fn of(text: &str, series: &str) -> Option<f64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(value.parse().unwrap())
}

/// Returns what `promtool check metrics` complains about.
fn complaints(classic: &str) -> String {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: install it with `scripts/tools test`");
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(classic.as_bytes()).unwrap();
    drop(input);
    let checked = promtool.wait_with_output().unwrap();
    let said = [checked.stdout, checked.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(checked.status.success(), said.trim().is_empty(), "{said}");
    said
}

/// A scheduler and a worker, as processes.
struct Fleet {
    scheduler: String,
    worker: String,
    processes: [Redeliver; 2],
    _folder: TempDir,
}

impl Fleet {
    async fn start(peer: &SmtpPeer, lines: &str) -> Self {
        let folder = TempDir::with_prefix("redeliver-policy-").unwrap();
        let policy = folder.path().join("policy.toml");
        std::fs::write(&policy, POLICY).unwrap();
        let (url, prefix) = (harness::redis::url(), harness::redis::unique_prefix());
        let (host, port) = (peer.address.ip(), peer.address.port());
        let [api, listen] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
        let config = format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = 4\n\
             [policy]\nfile = \"{}\"\n[scheduler]\nlisten = \"{api}\"\n\
             [worker]\npoll_max = \"20ms\"\nlisten = \"{listen}\"\n\
             [log]\nfilter = \"debug\"\n{lines}\n\
             [[route]]\nname = \"default\"\nsender = \"smtp\"\nhost = \"{host}\"\nport = {port}\n",
            policy.display()
        );
        let processes = ["scheduler", "worker"].map(|role| Redeliver::start(role, &config));
        let fleet = Self {
            scheduler: format!("http://{api}"),
            worker: format!("http://{listen}"),
            processes,
            _folder: folder,
        };
        for base in [&fleet.scheduler, &fleet.worker] {
            eventually("the fleet", async || {
                let ready = client().get(format!("{base}/readyz")).send().await.ok()?;
                ready.status().is_success().then_some(())
            })
            .await;
        }
        fleet
    }

    async fn post(&self) {
        let mut mail = bounce(RECIPIENT, "<m1.jo.a.secret.name@example.org>", FULL);
        mail["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
        mail["traceparent"] = json!(SAMPLED);
        let url = format!("{}/v1/bounces", self.scheduler);
        let posted = client().post(url).json(&mail).send().await.unwrap();
        assert_eq!(posted.status(), 202);
    }
}

#[tokio::test]
async fn a_bounce_and_its_attempts_are_counted_without_the_address() {
    let peer = SmtpPeer::agreeable_except("RCPT", Act::Say(FULL)).await;
    let collector = Collector::http().await;
    let telemetry = format!(
        "[telemetry]\nendpoint = \"{}\"\nprotocol = \"http\"\n",
        collector.url()
    );
    let fleet = Fleet::start(&peer, &telemetry).await;
    let bounces = "redeliver_bounces_total{answer=\"scheduled\",source=\"api\",class=\"4\"}";
    assert_eq!(value(&fleet.scheduler, bounces).await, 0.0);
    fleet.post().await;
    assert_eq!(value(&fleet.scheduler, bounces).await, 1.0);

    let attempts = |number| {
        format!(
            "redeliver_attempts_total{{outcome=\"deferred\",class=\"4\",attempt=\"{number}\",\
             sender=\"smtp\",destination=\"example.com\"}}"
        )
    };
    eventually("two attempts", async || {
        let second = value(&fleet.worker, &attempts(2)).await;
        (second == 1.0).then_some(())
    })
    .await;
    let (text, _) = scrape(&fleet.worker, "").await;
    for (series, expected) in [
        (attempts(1).as_str(), 1.0),
        ("redeliver_verdicts_total{verdict=\"retry\"}", 2.0),
        (
            "redeliver_attempt_duration_seconds_count{sender=\"smtp\"}",
            2.0,
        ),
        (
            "redeliver_phase_duration_seconds_count{phase=\"rcpt\"}",
            2.0,
        ),
        (
            "redeliver_phase_duration_seconds_count{phase=\"connect\"}",
            1.0,
        ),
        ("redeliver_connection_wait_seconds_count", 2.0),
        ("redeliver_claim_lateness_seconds_count", 2.0),
        ("redeliver_worker_permits{state=\"used\"}", 0.0),
        ("redeliver_worker_draining", 0.0),
    ] {
        assert_eq!(of(&text, series), Some(expected), "{series}\n{text}");
    }

    eventually("the figures of the fleet", async || {
        let (text, _) = scrape(&fleet.scheduler, "").await;
        let figures = [
            "redeliver_pending_jobs{horizon=\"1h\"}",
            "redeliver_workers",
        ];
        figures
            .iter()
            .all(|series| of(&text, series) == Some(1.0))
            .then_some(())
    })
    .await;
    for base in [&fleet.scheduler, &fleet.worker] {
        let (classic, kind) = scrape(base, "text/plain").await;
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        assert_eq!(complaints(&classic), "");
        let (open_metrics, kind) = scrape(base, OPEN_METRICS).await;
        assert!(kind.starts_with(OPEN_METRICS.split(';').next().unwrap()));
        assert!(open_metrics.ends_with("# EOF\n"));
        for text in [classic, open_metrics] {
            assert!(!text.contains(LOCAL_PART), "{text}");
        }
    }
    let (open_metrics, _) = scrape(&fleet.worker, OPEN_METRICS).await;
    let exemplar = open_metrics
        .lines()
        .find(|line| line.starts_with("redeliver_attempts_total{"))
        .unwrap();
    // Each attempt is a trace of its own, which links to the platform's.
    assert!(exemplar.contains("# {trace_id=\"") && !exemplar.contains(TRACE));
}

#[tokio::test]
async fn a_worker_that_stops_is_not_ready_and_still_reports_metrics() {
    let peer = SmtpPeer::agreeable_except("RCPT", Act::Hang).await;
    let fleet = Fleet::start(&peer, "").await;
    fleet.post().await;
    peer.wait_for_command("RCPT", 1).await;
    assert_eq!(
        value(&fleet.worker, "redeliver_worker_permits{state=\"used\"}").await,
        1.0
    );
    fleet.processes[1].signal("-TERM").await;
    eventually("draining", async || {
        let ready = client()
            .get(format!("{}/readyz", fleet.worker))
            .send()
            .await
            .ok()?;
        (ready.status() == 503).then_some(())
    })
    .await;
    let alive = client()
        .get(format!("{}/healthz", fleet.worker))
        .send()
        .await;
    assert_eq!(alive.unwrap().status(), 200);
    assert_eq!(value(&fleet.worker, "redeliver_worker_draining").await, 1.0);
}

#[tokio::test]
async fn metrics_of_a_scheduler_need_a_token_that_may_read_and_others_are_counted() {
    let world = World::new().await;
    let mut config = Config::embedded();
    config.access.tokens = vec![Grant {
        name: "prometheus".to_owned(),
        scopes: vec![Scope::Read],
        hash: TokenHash::of("a token"),
        rate: None,
        accounts: Accounts::All,
        expires: None,
    }];
    let http = Http::serve_with(&world, &config).await;
    let denied = http.get("/metrics").send().await.unwrap();
    assert_eq!(denied.status(), 401);
    let scraped = http.get("/metrics").bearer_auth("a token").send().await;
    let scraped = scraped.unwrap();
    assert_eq!(scraped.status(), 200);
    let text = scraped.text().await.unwrap();
    assert_eq!(of(&text, "redeliver_failed_sign_ins_total"), Some(1.0));
}

#[tokio::test]
async fn clients_that_send_nothing_do_not_keep_a_worker_from_answering() {
    let address = format!("127.0.0.1:{}", free_port());
    // Redis is never reached, so the worker is alive but not ready.
    let _worker = Redeliver::start_with(
        &["worker", "--allow-log"],
        &format!(
            "[redis]\nurl = \"redis://127.0.0.1:{}\"\n[worker]\nlisten = \"{address}\"\n",
            free_port()
        ),
    );
    let silent = async || TcpStream::connect(&address).await.ok();
    let mut clients = vec![eventually("the listener", silent).await];
    for _ in 0..40 {
        clients.push(TcpStream::connect(&address).await.unwrap());
    }
    eventually("an answer", async || {
        let alive = client().get(format!("http://{address}/healthz")).send();
        (alive.await.ok()?.status() == 200).then_some(())
    })
    .await;
    for path in ["readyz", "metrics"] {
        let url = format!("http://{address}/{path}");
        assert_eq!(client().get(url).send().await.unwrap().status(), 503);
    }
}
