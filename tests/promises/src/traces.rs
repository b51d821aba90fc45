//! A retry chain arrives at a collector as linked traces: the bounce's span, and a trace per
//! attempt that links to it and to the attempt before. The collector gets no address, follows the
//! platform's choice of what is sampled, and never slows a worker down.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::bounce::{FULL, bounce};
use harness::dns::DnsServer;
use harness::http::client;
use harness::otlp::{Answer, Collector, Received};
use harness::port::free_port;
use harness::process::{Redeliver, program};
use harness::redis;
use harness::smtp::{Act, SmtpPeer, agree};
use harness::wait::eventually;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

mod ends;
mod lost;
mod parts;
mod picture;
mod told;

const LOCAL_PART: &str = "jo.a.secret.name";
const RECIPIENT: &str = "jo.a.secret.name@example.com";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const NOT_SAMPLED: &str = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// The schedule of the tests: an attempt a second.
const POLICY: &str = "[[row]]\nname = \"each-second\"\nstatus = \"4.3.1\"\nscope = \"host\"\n\
    delays = [\"1s\", \"1s\", \"1s\", \"1s\"]\njitter = \"0%\"\nhint = \"ignore\"\n\
    final = \"unavailable\"\n";

/// A scheduler, and what its workers need. All are processes.
struct Fleet {
    config: String,
    api: String,
    /// The prefix of its keys in Redis.
    prefix: String,
    /// Kept, because dropping it would kill the scheduler.
    _scheduler: Redeliver,
    _folder: TempDir,
}

impl Fleet {
    /// `lines` are added to the configuration of all processes.
    async fn start(lines: &str) -> Self {
        let folder = TempDir::with_prefix("redeliver-policy-").unwrap();
        let policy = folder.path().join("policy.toml");
        std::fs::write(&policy, POLICY).unwrap();
        let (url, prefix) = (redis::url(), redis::unique_prefix());
        let config = format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = 4\n\
             [policy]\nfile = \"{}\"\n[placement]\nmx = false\n\
             [worker]\npoll_max = \"20ms\"\nlease = \"1s\"\n[log]\nfilter = \"debug\"\n{lines}\n",
            policy.display()
        );
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let scheduler = Redeliver::start_with(&["scheduler", "--listen", &listen], &config);
        let api = format!("http://{listen}");
        eventually("the scheduler", async || {
            let ready = client().get(format!("{api}/readyz")).send().await.ok()?;
            ready.status().is_success().then_some(())
        })
        .await;
        Self {
            config,
            api,
            prefix,
            _scheduler: scheduler,
            _folder: folder,
        }
    }

    fn worker(&self, route: &str) -> Redeliver {
        let config = format!("{}[[route]]\nname = \"default\"\n{route}\n", self.config);
        Redeliver::start("worker", &config)
    }

    async fn post(&self, recipient: &str, traceparent: &str) {
        let mut mail = bounce(recipient, "<m1.jo.a.secret.name@example.org>", FULL);
        mail["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
        mail["traceparent"] = json!(traceparent);
        let posted = client()
            .post(format!("{}/v1/bounces", self.api))
            .json(&mail);
        assert_eq!(posted.send().await.unwrap().status(), 202);
    }

    async fn history(&self) -> Option<Vec<Value>> {
        let report = self.get("").await?;
        report["job"]["history"].as_array().cloned()
    }

    /// Asks for a part of what is known about the recipient.
    async fn get(&self, part: &str) -> Option<Value> {
        let url = format!("{}/v1/addresses/{RECIPIENT}{part}", self.api);
        client().get(url).send().await.ok()?.json().await.ok()
    }
}

/// A mail host that refuses RCPT for the first two attempts, gives no answer to the third, refuses
/// that again, and accepts the fifth.
async fn host() -> SmtpPeer {
    let recipients = Arc::new(AtomicUsize::new(0));
    SmtpPeer::start(move |received| {
        if !received.command.starts_with("RCPT") {
            return agree(&received.command);
        }
        match recipients.fetch_add(1, Ordering::Relaxed) {
            0 | 1 | 3 => Act::Say(FULL),
            2 => Act::Hang,
            _ => agree(&received.command),
        }
    })
    .await
}

fn telemetry(collector: &Collector, protocol: &str) -> String {
    format!(
        "[telemetry]\nendpoint = \"{}\"\nprotocol = \"{protocol}\"\n\
         trace_url = \"https://traces.example.org/{{trace_id}}\"\n",
        collector.url()
    )
}

/// Returns the settings of a route that sends to this peer.
fn relay(peer: &SmtpPeer) -> String {
    let (host, port) = (peer.address.ip(), peer.address.port());
    format!("sender = \"smtp\"\nhost = \"{host}\"\nport = {port}\ntls = \"none\"")
}

/// A collector of another project, which passes on what it gets. It is killed when this is dropped.
struct Rotel {
    process: Child,
    url: String,
}

impl Rotel {
    /// Starts it in front of `collector`, which speaks OTLP over HTTP.
    ///
    /// # Panics
    /// If `scripts/tools test` has not installed it.
    fn before(collector: &Collector) -> Self {
        let (grpc, http) = (free_port(), free_port());
        let address = |port: u16| format!("127.0.0.1:{port}");
        let process = Command::new(Self::program())
            .args(["start", "--otlp-grpc-endpoint", &address(grpc)])
            .args(["--otlp-http-endpoint", &address(http)])
            .args(["--exporter", "otlp", "--otlp-exporter-protocol", "http"])
            .args(["--otlp-exporter-endpoint", &collector.url()])
            .args(["--batch-timeout", "200ms"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("rotel can be started");
        Self {
            process,
            url: format!("http://{}", address(grpc)),
        }
    }

    fn program() -> PathBuf {
        let target = program();
        let target = target.parent().and_then(|folder| folder.parent()).unwrap();
        let installed = std::fs::read_dir(target.join("tools"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|folder| folder.path().join("rotel/rotel-agent"))
            .find(|agent| agent.exists());
        installed.expect("rotel is missing: run `scripts/tools test` first, or `make test`")
    }
}

impl Drop for Rotel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn kind(received: &Received) -> SpanKind {
    received.span.kind()
}

fn is_error(received: &Received) -> bool {
    let status = received.span.status.as_ref();
    status.is_some_and(|status| status.code() == StatusCode::Error)
}

/// Runs a chain of four attempts through two workers, with a crash in the third, and looks at what
/// the collector got.
async fn a_chain_arrives(collector: &Collector, protocol: &str, route: &str, peer: &SmtpPeer) {
    let fleet = Fleet::start(&telemetry(collector, protocol)).await;
    let first = fleet.worker(route);
    fleet.post(RECIPIENT, SAMPLED).await;
    peer.wait_for_command("RCPT", 2).await;
    let history = eventually("two attempts in the history", async || {
        fleet.history().await.filter(|history| history.len() == 3)
    })
    .await;
    let report = fleet.get("").await.expect("the scheduler answers");
    let scheduled = fleet.get("/events").await.expect("the scheduler answers");
    let url = format!("https://traces.example.org/{TRACE}");
    for origin in [&report["job"]["messages"][0], &scheduled["events"][0]] {
        assert_eq!(origin["trace_url"], url, "the origin is shown: {origin}");
    }
    peer.wait_for_command("RCPT", 3).await;
    eventually("the spans of two attempts", async || {
        let spans = collector.spans();
        let of_attempts = spans
            .iter()
            .filter(|received| received.span.name == "settle");
        (of_attempts.count() >= 2).then_some(())
    })
    .await;
    first.kill().await;
    let second = fleet.worker(route);
    peer.wait_for_command("RCPT", 5).await;
    let mut attempts = collector.wait_for("process", 4).await;
    attempts.sort_by_key(|received| received.attribute("redeliver.attempt.number"));
    assert_eq!(
        attempts.len(),
        4,
        "the attempt of the killed worker is unknown"
    );

    let sent = collector.wait_for("send", 1).await.remove(0);
    assert_eq!(kind(&sent), SpanKind::Producer);
    assert_eq!(
        hex(&sent.span.trace_id),
        TRACE,
        "it belongs to the platform's trace"
    );
    assert_eq!(hex(&sent.span.parent_span_id), "b7ad6b7169203331");
    assert_eq!(
        sent.attribute("redeliver.answer").as_deref(),
        Some("scheduled")
    );
    let conversation = sent.attribute("messaging.message.conversation_id").unwrap();
    assert_eq!(report["conversation_id"], conversation);

    let mut traces = vec![sent.span.trace_id.clone()];
    let mut previous: Option<Received> = None;
    for (number, attempt) in (1..).zip(&attempts) {
        let attribute = |key| attempt.attribute(key).unwrap_or_default();
        assert_eq!(attribute("redeliver.attempt.number"), format!("{number}"));
        assert_eq!(attribute("messaging.message.conversation_id"), conversation);
        assert_eq!(attribute("redeliver.destination"), "example.com");
        assert_eq!(kind(attempt), SpanKind::Consumer);
        assert!(
            attempt.span.parent_span_id.is_empty(),
            "each attempt is a root"
        );
        assert!(
            !traces.contains(&attempt.span.trace_id),
            "each is a trace of its own"
        );
        traces.push(attempt.span.trace_id.clone());
        let mut links = vec![("origin".to_owned(), sent.span.span_id.clone())];
        links.extend(previous.map(|last| ("previous".to_owned(), last.span.span_id)));
        assert_eq!(attempt.links(), links, "attempt {number}");
        let is_last = number == 4;
        assert_eq!(
            attribute("redeliver.verdict"),
            if is_last { "close" } else { "retry" }
        );
        assert!(!is_error(attempt), "an expected deferral is no error");
        assert_eq!(attempt.resource["service.name"], "redeliver-worker");

        let spans = collector.spans();
        let child = |name: &str| {
            let is_child = |received: &&Received| {
                received.span.name == name && received.span.parent_span_id == attempt.span.span_id
            };
            spans.iter().find(is_child).cloned()
        };
        let smtp = child("smtp").expect("an attempt has a conversation");
        assert_eq!(kind(&smtp), SpanKind::Client);
        assert_eq!(
            smtp.attribute("server.port"),
            Some(peer.address.port().to_string())
        );
        let code = if is_last { "250" } else { "452" };
        assert_eq!(smtp.attribute("smtp.reply.code").as_deref(), Some(code));
        assert_eq!(
            is_error(&smtp),
            !is_last,
            "a deferral is an error of the conversation"
        );
        assert!(smtp.attribute("smtp.phase.rcpt.duration").is_some());
        let settle = child("settle").expect("an attempt is settled");
        assert_eq!(kind(&settle), SpanKind::Client);
        assert!(settle.span.end_time_unix_nano >= settle.span.start_time_unix_nano);
        assert!(!is_error(&settle) && settle.attribute("error.type").is_none());
        assert!(child("content").is_some());
        previous = Some(attempt.clone());
    }
    let traced: Vec<String> = attempts[..2]
        .iter()
        .map(|attempt| format!("https://traces.example.org/{}", hex(&attempt.span.trace_id)))
        .collect();
    let shown: Vec<&str> = history[1..]
        .iter()
        .filter_map(|attempt| attempt["trace_url"].as_str())
        .collect();
    assert_eq!(shown, traced, "the API leads from the job to its attempts");

    if protocol == "http" {
        picture::write(&sent, &attempts, &collector.spans());
    }
    let received = collector.wait_for("receive", 1).await;
    assert!(received.iter().all(|claim| kind(claim) == SpanKind::Client));
    assert_eq!(
        received[0].links()[0],
        ("origin".to_owned(), sent.span.span_id.clone())
    );
    let of_attempt = |record: &opentelemetry_proto::tonic::logs::v1::LogRecord| {
        record.trace_id == attempts[3].span.trace_id
    };
    eventually("a line of the log with its trace", async || {
        collector.logs().iter().any(of_attempt).then_some(())
    })
    .await;
    let log = second.log();
    assert!(
        log.contains(&format!(
            "\"trace_id\":\"{}\"",
            hex(&attempts[3].span.trace_id)
        )),
        "a line of the log names its trace: {log}"
    );
    assert!(
        !log.contains(LOCAL_PART) && !collector.contains(LOCAL_PART),
        "no address is sent"
    );
}

#[tokio::test]
async fn a_chain_over_a_relay_arrives_by_grpc_with_its_links_kinds_and_attributes() {
    let (collector, peer) = (Collector::grpc().await, host().await);
    a_chain_arrives(&collector, "grpc", &relay(&peer), &peer).await;
}

#[tokio::test]
async fn a_chain_to_mail_hosts_arrives_by_http_and_each_lookup_is_a_span() {
    let (collector, peer, dns) = (
        Collector::http().await,
        host().await,
        DnsServer::start().await,
    );
    dns.set_mx("example.com", &[(10, "mx1.example.com.")]);
    dns.set_addresses("mx1.example.com", &["127.0.0.1"]);
    let route = format!(
        "sender = \"mx\"\nport = {}\nprivate_hosts = true\nnameservers = [\"{}\"]\ntls = \"none\"",
        peer.address.port(),
        dns.address
    );
    a_chain_arrives(&collector, "http", &route, &peer).await;
    let lookups = collector.wait_for("dns", 4).await;
    assert!(lookups.len() >= 4, "each attempt looks its hosts up");
    let smtp = collector.wait_for("smtp", 1).await.remove(0);
    assert_eq!(
        smtp.attribute("server.address").as_deref(),
        Some("mx1.example.com")
    );
}

#[tokio::test]
async fn what_the_platform_does_not_sample_is_not_sent() {
    let (collector, peer) = (Collector::http().await, SmtpPeer::agreeable().await);
    let fleet = Fleet::start(&telemetry(&collector, "http")).await;
    let _worker = fleet.worker(&relay(&peer));
    fleet.post("dropped@one.example", NOT_SAMPLED).await;
    peer.wait_for_command("RCPT", 1).await;
    fleet.post(RECIPIENT, SAMPLED).await;
    collector.wait_for("settle", 1).await;
    for received in collector.spans() {
        let destination = received.attribute("redeliver.destination");
        assert_ne!(destination.as_deref(), Some("one.example"), "{received:?}");
    }
    assert_eq!(collector.wait_for("send", 1).await.len(), 1);
}

#[tokio::test]
async fn a_collector_of_another_project_understands_the_spans_and_passes_them_on() {
    let (collector, peer) = (Collector::http().await, SmtpPeer::agreeable().await);
    let rotel = Rotel::before(&collector);
    let fleet = Fleet::start(&format!("[telemetry]\nendpoint = \"{}\"\n", rotel.url)).await;
    let _worker = fleet.worker(&relay(&peer));
    fleet.post(RECIPIENT, SAMPLED).await;
    let sent = collector.wait_for("send", 1).await.remove(0);
    let attempt = collector.wait_for("process", 1).await.remove(0);
    let origin = ("origin".to_owned(), sent.span.span_id.clone());
    assert_eq!(attempt.links(), [origin]);
    assert_eq!(kind(&attempt), SpanKind::Consumer);
    assert_eq!(attempt.resource["service.name"], "redeliver-worker");
    assert!(!collector.contains(LOCAL_PART));
}

#[tokio::test]
async fn with_trace_style_parent_an_early_attempt_belongs_to_the_trace_of_its_origin() {
    let (collector, peer) = (Collector::http().await, SmtpPeer::agreeable().await);
    let settings = format!(
        "{}trace_style = \"parent\"\n",
        telemetry(&collector, "http")
    );
    let fleet = Fleet::start(&settings).await;
    let _worker = fleet.worker(&relay(&peer));
    fleet.post(RECIPIENT, SAMPLED).await;
    let sent = collector.wait_for("send", 1).await.remove(0);
    let attempt = collector.wait_for("process", 1).await.remove(0);
    assert_eq!(hex(&attempt.span.trace_id), TRACE);
    assert_eq!(attempt.span.parent_span_id, sent.span.span_id);
}

#[tokio::test]
async fn a_collector_that_hangs_refuses_or_is_gone_delays_neither_mail_nor_the_end_of_a_worker() {
    let gone = format!("http://127.0.0.1:{}", free_port());
    for answer in [Some(Answer::Hang), Some(Answer::Refuse), None] {
        let collector = Collector::grpc().await;
        let settings = match answer {
            Some(answer) => {
                collector.answer_with(answer);
                telemetry(&collector, "grpc")
            }
            None => format!("[telemetry]\nendpoint = \"{gone}\"\n"),
        };
        let peer = SmtpPeer::agreeable().await;
        let fleet = Fleet::start(&settings).await;
        let worker = fleet.worker(&relay(&peer));
        for n in 0..20 {
            fleet.post(&format!("user{n}@example.com"), SAMPLED).await;
        }
        peer.wait_for_command("RCPT", 20).await;
        if answer.is_some() {
            eventually("a request to the collector", async || {
                (collector.requests() > 0).then_some(())
            })
            .await;
        }
        if answer != Some(Answer::Hang) {
            let warning = "the collector of telemetry does not accept";
            eventually("a warning", async || {
                worker.log().contains(warning).then_some(())
            })
            .await;
        }
        let began = Instant::now();
        assert!(worker.terminate().await.success());
        // Two seconds for traces and logs together, and some for the rest on a busy machine.
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{answer:?}: {:?}",
            began.elapsed()
        );
    }
}
