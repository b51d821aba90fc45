//! A Redis server that the program has started for itself ends with the program, however the
//! program is stopped.

use std::path::PathBuf;

use domain::clock::{Clock, Timestamp};
use harness::bounce::{FULL, bounce};
use harness::port::free_port;
use harness::process::Redeliver;
use harness::smtp::{Act, SmtpPeer};
use harness::wait::{eventually, in_time};
use serde_json::json;
use system::clock::SystemClock;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// The exit code of a command that is stopped before it is done.
const INTERRUPTED: i32 = 130;

#[tokio::test]
async fn the_redis_server_ends_with_the_command_that_is_stopped() {
    for (arguments, status) in [
        (
            &["bench", "memory", "--jobs", "5000000"] as &[&str],
            INTERRUPTED,
        ),
        (&["demo", "--speed", "1"], INTERRUPTED),
        (&["dev", "--data", "data", "--listen", "127.0.0.1:0"], 0),
    ] {
        let program = Redeliver::start_with(arguments, "[log]\nfilter = \"error\"\n");
        let server = server_of(&program).await;
        let ended = in_time("the command's end", program.terminate()).await;
        assert_eq!(ended.code(), Some(status), "{arguments:?}");
        server.wait_for_end().await;
    }
}

#[tokio::test]
async fn the_redis_server_ends_with_a_command_that_is_stopped_twice_while_it_waits_for_an_attempt()
{
    let peer = SmtpPeer::agreeable_except("DATA", Act::Hang).await;
    let (host, port) = (peer.address.ip(), peer.address.port());
    let listen = format!("127.0.0.1:{}", free_port());
    let program = Redeliver::start_with(
        &["dev", "--data", "data", "--listen", &listen],
        &format!(
            "[worker]\ngrace = \"60s\"\n[log]\nfilter = \"error\"\n[[route]]\nname = \"default\"\n\
             sender = \"smtp\"\n\
             host = \"{host}\"\nport = {port}\n"
        ),
    );
    let server = server_of(&program).await;
    let mut posted = bounce("jo@example.com", "m1", FULL);
    posted["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
    posted["occurred_at"] = Timestamp::from_ms(SystemClock.now().ms() - 172_800_000)
        .to_string()
        .into();
    let (client, url) = (
        harness::http::client(),
        format!("http://{listen}/v1/bounces"),
    );
    eventually("a scheduler", async || {
        client.post(&url).json(&posted).send().await.ok()
    })
    .await;
    peer.wait_for_command("DATA", 1).await;
    program.signal("-TERM").await;
    eventually("the end of intake", async || {
        client.get(&url).send().await.err()
    })
    .await;
    let ended = in_time("the command's end", program.terminate()).await;
    assert_eq!(ended.code(), Some(INTERRUPTED));
    server.wait_for_end().await;
}

/// A connection to the server that the program has started.
struct Server(UnixStream);

impl Server {
    /// Waits until the server closes the connection: it has ended.
    async fn wait_for_end(mut self) {
        let received = in_time("the server's end", self.0.read(&mut [0; 1])).await;
        assert!(matches!(received, Ok(0) | Err(_)), "{received:?}");
    }
}

impl Drop for Server {
    /// Stops the server if it has not ended as it should, so that the test leaves none behind.
    fn drop(&mut self) {
        let _ = self.0.try_write(b"SHUTDOWN NOSAVE\r\n");
    }
}

async fn server_of(program: &Redeliver) -> Server {
    eventually("a server", async || {
        UnixStream::connect(socket_of(program)?)
            .await
            .ok()
            .map(Server)
    })
    .await
}

/// The path of the server's socket, in a folder of the program or in the folder for temporary
/// files.
fn socket_of(program: &Redeliver) -> Option<PathBuf> {
    let folders = std::fs::read_dir(program.folder()).ok()?;
    folders
        .filter_map(Result::ok)
        .map(|folder| folder.path().join("redis.sock"))
        .find(|socket| socket.exists())
}
