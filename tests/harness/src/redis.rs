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

/// Returns the URL of this process's Redis. The first call starts the server.
///
/// # Panics
/// If `redis-server` is not installed. The message explains how to install it.
pub fn url() -> String {
    URL.clone()
}

/// Returns a key prefix that no other test of this process uses.
pub fn unique_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Returns connections to the Redis at `url`. No connection is open yet.
pub fn connections(url: &str) -> Connections {
    connections_with(url, Duration::from_secs(20))
}

/// Like [`connections`], but connecting and each answer may take only `timeout`.
pub fn connections_with(url: &str, timeout: Duration) -> Connections {
    let servers = Servers::single(url).expect("the URL of a private Redis is valid");
    let settings = ConnectionSettings {
        connect_timeout: timeout,
        response_timeout: timeout,
        ..settings()
    };
    Connections::new(&servers, settings).expect("the connection settings are valid")
}

/// Returns the connection settings of tests. The timeouts are long, for slow and busy machines.
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

/// Sends a command to the Redis at `url`, like `redis-cli`. Returns the answer, unparsed.
///
/// # Panics
/// If the answer is an error.
pub async fn ask(url: &str, words: &[&str]) -> String {
    let stream = UnixStream::connect(url.trim_start_matches("redis+unix://"))
        .await
        .expect("the socket can be opened");
    let (mut answers, mut requests) = stream.into_split();
    let words = words
        .iter()
        .map(|word| format!("${}\r\n{word}\r\n", word.len()));
    let request = format!("*{}\r\n{}", words.len(), words.collect::<String>());
    requests
        .write_all(request.as_bytes())
        .await
        .expect("the request can be sent");
    let answer = Frames::default()
        .next(&mut answers)
        .await
        .expect("Redis answers");
    let answer = String::from_utf8(answer).expect("the tests store only text");
    assert!(!answer.starts_with('-'), "{answer}");
    answer
}

/// Starts the server in a separate thread with its own runtime. The runtime of a test ends with the
/// test, but the server must outlive it.
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
            started
                .send(redis.url())
                .expect("the caller waits for the URL");
            std::future::pending::<()>().await;
        });
    });
    url.recv()
        .expect("Redis did not start; the reason is printed above")
}

/// Starts a shell that ends the server and removes its folder when the test process ends. Values of
/// statics are not dropped then, but the pipe to the shell is closed, even if the process is
/// killed.
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
                .expect("the server has just been started")
                .to_string(),
        )
        .arg(socket.parent().expect("a socket is in a folder"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}
