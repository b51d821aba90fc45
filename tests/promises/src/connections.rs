//! Idle connections cost little and block no request, however many there are. A slow client, or one
//! with more connections than its share, takes nothing from other clients. Health checks are always
//! answered.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use harness::bounce::{FULL, bounce};
use harness::http::client;
use harness::port::free_port;
use harness::process::Redeliver;
use harness::redis;
use harness::wait::{eventually, in_time};
use harness::world::World;
use reqwest::{Client, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How soon a scheduler answers if nothing delays it.
const SOON: Duration = Duration::from_secs(5);

/// A scheduler in a process of its own.
struct Scheduler {
    process: Redeliver,
    address: SocketAddr,
    client: Client,
    _world: World,
}

impl Scheduler {
    /// Starts a scheduler with these keys of `[scheduler]`, from a shell that runs `shell` first.
    async fn start(shell: &str, keys: &str) -> Self {
        let world = World::new().await;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
        let config = format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[scheduler]\n\
             listen = \"{address}\"\n{keys}"
        );
        let shell = format!("{shell}\nexec \"$@\"");
        let process =
            Redeliver::start_by(&["sh", "-c", &shell, "sh"], &[], &["scheduler"], &config);
        let scheduler = Self {
            process,
            address,
            client: client(),
            _world: world,
        };
        eventually("the scheduler", async || {
            (scheduler.ready().await == Some(StatusCode::OK)).then_some(())
        })
        .await;
        scheduler
    }

    /// The status of `/readyz`. `None` if no answer comes soon.
    async fn ready(&self) -> Option<StatusCode> {
        let request = self
            .client
            .get(format!("http://{}/readyz", self.address))
            .header("connection", "close");
        Some(request.timeout(SOON).send().await.ok()?.status())
    }

    /// The status of the answer to a bounce, and whether the answer contains a retry time. `None`
    /// if no answer comes soon.
    async fn post(&self) -> Option<(StatusCode, bool)> {
        let request = self
            .client
            .post(format!("http://{}/v1/bounces", self.address))
            .header("connection", "close");
        let response = request
            .json(&bounce("jo@example.com", "m1", FULL))
            .timeout(SOON)
            .send()
            .await
            .ok()?;
        Some((
            response.status(),
            response.headers().contains_key("retry-after"),
        ))
    }

    async fn connect(&self) -> TcpStream {
        in_time("a connection", TcpStream::connect(self.address))
            .await
            .expect("the system accepts a connection")
    }

    /// Opens connections that send `sent` and nothing more.
    async fn connections(&self, count: usize, sent: &str) -> Vec<TcpStream> {
        let mut connections = Vec::new();
        for _ in 0..count {
            let mut connection = self.connect().await;
            connection
                .write_all(sent.as_bytes())
                .await
                .expect("the connection is open");
            connections.push(connection);
        }
        connections
    }

    /// Opens connections that each have a request in progress: the end of its body is missing.
    async fn busy(&self, count: usize) -> Vec<TcpStream> {
        let head = "POST /v1/bounces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n\
            Content-Length: 9\r\n";
        let mut connections = self
            .connections(count, &format!("{head}Expect: 100-continue\r\n\r\n"))
            .await;
        for connection in &mut connections {
            // The scheduler sends this when it asks for the body.
            let mut answer = [0; 12];
            in_time("100 Continue", connection.read_exact(&mut answer))
                .await
                .expect("the connection is open");
            assert_eq!(&answer, b"HTTP/1.1 100");
        }
        connections
    }

    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.process_id()))
            .expect("the scheduler runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("Linux reports the memory of a process");
        line.split_whitespace()
            .next()
            .and_then(|number| number.parse::<u64>().ok())
            .expect("a number of KiB")
            << 10
    }
}

/// Waits until the other side has closed the connection. Returns whether it sent nothing before
/// that.
async fn is_closed(connection: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    in_time("the end of a connection", connection.read_to_end(&mut rest))
        .await
        .is_ok_and(|_| rest.is_empty())
}

#[tokio::test]
async fn requests_are_answered_even_with_more_idle_connections_than_file_descriptors() {
    for begun in ["", "POST /v1/bounces HTTP/1.1\r\nHost: x\r\n"] {
        let scheduler = Scheduler::start("ulimit -n 1024", "").await;
        let _idle = scheduler.connections(1_100, begun).await;
        assert_eq!(
            scheduler.ready().await,
            Some(StatusCode::OK),
            "with {begun:?} sent"
        );
        assert_eq!(
            scheduler.post().await.map(|(status, _)| status),
            Some(StatusCode::ACCEPTED),
            "with {begun:?} sent"
        );
        let log = scheduler.process.log();
        assert!(!log.contains("cannot be accepted"), "{log}");
    }
}

#[tokio::test]
async fn a_process_without_free_file_descriptors_waits_for_one_and_logs_that_once() {
    let scheduler = Scheduler::start(
        "ulimit -n 64",
        "connections = 1000\nconnections_per_peer = 1000\n",
    )
    .await;
    let idle = scheduler.connections(150, "").await;
    assert_eq!(
        scheduler.ready().await,
        Some(StatusCode::OK),
        "an idle connection gives up its descriptor"
    );
    drop(idle);
    eventually("the end of the shortage in the log", async || {
        (scheduler.ready().await.is_some()
            && scheduler.process.log().contains("are accepted again"))
        .then_some(())
    })
    .await;
    let log = scheduler.process.log();
    let started = log
        .lines()
        .filter(|line| line.contains("cannot be accepted"))
        .count();
    let ended = log
        .lines()
        .filter(|line| line.contains("are accepted again"))
        .count();
    assert!((1..=5).contains(&started) && ended <= started, "{log}");
}

#[tokio::test]
async fn if_all_connections_are_busy_health_checks_are_answered_and_other_clients_get_a_retry_time()
{
    let scheduler = Scheduler::start(":", "connections = 2\nconnections_per_peer = 2\n").await;
    let mut busy = scheduler.busy(2).await;
    assert_eq!(scheduler.ready().await, Some(StatusCode::OK));
    assert_eq!(
        scheduler.post().await,
        Some((StatusCode::SERVICE_UNAVAILABLE, true))
    );
    // A connection from the reserve is closed soon if it sends no request.
    assert!(is_closed(&mut scheduler.connect().await).await);
    busy[0]
        .write_all(b"not JSON\n")
        .await
        .expect("the connection is open");
    eventually("a free connection", async || {
        scheduler
            .post()
            .await
            .filter(|(status, _)| *status == StatusCode::ACCEPTED)
    })
    .await;
}

#[tokio::test]
async fn a_client_gets_only_its_share_of_the_connections_but_a_trusted_proxy_may_use_all() {
    for (trusted, status) in [
        ("", StatusCode::SERVICE_UNAVAILABLE),
        ("\"127.0.0.0/8\"", StatusCode::ACCEPTED),
    ] {
        let keys =
            format!("connections = 10\nconnections_per_peer = 2\ntrusted_proxies = [{trusted}]\n");
        let scheduler = Scheduler::start(":", &keys).await;
        let _busy = scheduler.busy(2).await;
        assert_eq!(
            scheduler.post().await.map(|(status, _)| status),
            Some(status),
            "trusted: {trusted}"
        );
    }
}

#[tokio::test]
async fn a_client_that_sends_its_request_head_too_slowly_or_sends_nothing_is_disconnected() {
    let scheduler = Scheduler::start(":", "header_timeout = \"1s\"\nkeep_alive = \"2s\"\n").await;
    let mut silent = scheduler.connect().await;
    let mut slow = scheduler.connect().await;
    let head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: "
        .iter()
        .chain(std::iter::repeat(&b'x'));
    let mut sent = 0;
    for byte in head {
        // It never pauses for as long as a second.
        if slow.write_all(&[*byte]).await.is_err() {
            break;
        }
        sent += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(sent < 400, "the slow client is never disconnected");
    }
    assert!(is_closed(&mut silent).await);
    let mut idle = scheduler.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("the connection is open");
    let mut answer = Vec::new();
    in_time("the end of a connection", idle.read_to_end(&mut answer))
        .await
        .expect("the connection is closed in order");
    assert!(
        answer.ends_with(b"ok\n"),
        "the request is answered, and the connection closed after its idle time"
    );
}

#[tokio::test]
async fn an_idle_connection_costs_at_most_20_kib_of_memory() {
    const COUNT: usize = 2_000;
    const MOST: u64 = 20 << 10;
    let scheduler =
        Scheduler::start(":", "connections = 10000\nconnections_per_peer = 10000\n").await;
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    for sent in ["", request] {
        // Lets the process reach the memory of its busiest time before the measurement.
        drop(scheduler.connections(50, request).await);
        let before = scheduler.memory();
        let mut idle = scheduler.connections(COUNT, sent).await;
        if let Some(last) = idle.last_mut().filter(|_| !sent.is_empty()) {
            let mut answer = [0; 1_024];
            in_time("an answer", last.read(&mut answer))
                .await
                .expect("the connection is open");
        }
        assert_eq!(scheduler.ready().await, Some(StatusCode::OK));
        let each = scheduler.memory().saturating_sub(before) / COUNT as u64;
        assert!(each <= MOST, "{each} bytes each, after {sent:?}");
    }
}
