//! One private Redis per test process, and a key prefix per test.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use private_servers::redis::PrivateRedis;
use store::connection::pool::Connections;
use store::connection::servers::Servers;
use store::connection::settings::ConnectionSettings;
use store::connection::settings::Durability;
use system::tls::TlsFiles;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::runtime;

use crate::proxy::resp::Frames;

static URL: LazyLock<String> = LazyLock::new(start);

/// The URL of this process's Redis, which is started on the first call.
///
/// # Panics
/// Where there is no `redis-server`; the text says how to install it.
pub fn url() -> String {
    URL.clone()
}

/// A key prefix that no other test of this process has.
pub fn unique_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Connections to the Redis at `url`. Nothing is connected yet.
pub fn connections(url: &str) -> Connections {
    connections_with(url, Duration::from_secs(20))
}

/// The same, on which nothing takes longer than `timeout`.
pub fn connections_with(url: &str, timeout: Duration) -> Connections {
    let servers = Servers::single(url).expect("a private Redis has a good URL");
    let settings = ConnectionSettings {
        connect_timeout: timeout,
        response_timeout: timeout,
        ..settings()
    };
    Connections::new(&servers, settings).expect("nothing contradicts itself")
}

/// How tests are connected: with time to spare, on a slow and busy machine.
pub fn settings() -> ConnectionSettings {
    ConnectionSettings {
        pool_max: 8,
        connect_timeout: Duration::from_secs(20),
        response_timeout: Duration::from_secs(20),
        durability: Durability::Memory,
        durability_timeout: Duration::from_secs(20),
        allow_eviction: false,
        tls: TlsFiles::default(),
    }
}

/// Asks the Redis at `url` one thing, as `redis-cli` would, and gives the answer as it came.
///
/// # Panics
/// Where it answers with an error.
pub async fn ask(url: &str, words: &[&str]) -> String {
    let stream = UnixStream::connect(url.trim_start_matches("redis+unix://"))
        .await
        .expect("it is there");
    let (mut answers, mut requests) = stream.into_split();
    let words = words
        .iter()
        .map(|word| format!("${}\r\n{word}\r\n", word.len()));
    let request = format!("*{}\r\n{}", words.len(), words.collect::<String>());
    requests
        .write_all(request.as_bytes())
        .await
        .expect("it is there");
    let answer = Frames::default()
        .next(&mut answers)
        .await
        .expect("it answers");
    let answer = String::from_utf8(answer).expect("the tests keep text in it");
    assert!(!answer.starts_with('-'), "{answer}");
    answer
}

/// Each test has a runtime of its own and takes it along when it ends, so the server lives in a
/// thread of its own.
fn start() -> String {
    let (started, url) = mpsc::channel();
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be built");
        runtime.block_on(async {
            let redis = PrivateRedis::volatile()
                .await
                .unwrap_or_else(|err| panic!("{err}"));
            let _guard = end_with_this_process(&redis).expect("a shell can be started");
            started.send(redis.url()).expect("somebody waits for it");
            std::future::pending::<()>().await;
        });
    });
    url.recv()
        .expect("no Redis, no tests; what is wrong is said above")
}

/// Nothing is dropped when a test process ends, let alone when it is killed. But its pipes are
/// closed, and a shell at the end of one ends the server then and removes its folder.
fn end_with_this_process(redis: &PrivateRedis) -> io::Result<Child> {
    let url = redis.url();
    let socket = Path::new(url.trim_start_matches("redis+unix://"));
    Command::new("sh")
        .args([
            "-c",
            "trap '' INT TERM HUP; read _; kill -KILL \"$1\"; rm -rf \"$2\"",
            "sh",
        ])
        .arg(
            redis
                .process_id()
                .expect("it has just been started")
                .to_string(),
        )
        .arg(socket.parent().expect("a socket lies in a folder"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}
