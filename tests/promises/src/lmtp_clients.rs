//! Mail servers that deliver by LMTP get an answer to each message. An idle client is disconnected
//! to make room for another one. A client that sends no mail or speaks another protocol is
//! disconnected too.

use std::net::SocketAddr;

use harness::http::Http;
use harness::lmtp::LmtpClient;
use harness::port::free_port;
use harness::report::config;
use harness::wait::in_time;
use harness::world::World;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// A scheduler with an LMTP listener and these keys for it.
async fn serve_lmtp(world: &World, keys: &str) -> (Http, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = config(&format!("[intake.lmtp]\nlisten = \"{address}\"\n{keys}"));
    (Http::serve_with(world, &config).await, address)
}

/// A client that has named a recipient and may send the content of a message.
async fn at_data(address: SocketAddr) -> LmtpClient {
    let mut client = LmtpClient::connect(address).await;
    for (line, code) in [
        ("LHLO client.example", "250"),
        ("MAIL FROM:<>", "250"),
        ("RCPT TO:<a@example.org>", "250"),
        ("DATA", "354"),
    ] {
        assert!(client.say(line).await.starts_with(code), "{line}");
    }
    client
}

#[tokio::test]
async fn a_message_whose_first_line_is_a_dot_is_answered() {
    let world = World::new().await;
    let (_http, address) = serve_lmtp(&world, "message_max = \"1KiB\"\n").await;
    for (content, code) in [(".", "250 "), ("..", "250 "), (&"x".repeat(2_000), "552 ")] {
        let mut client = at_data(address).await;
        let reply = match content {
            "." => client.say(".").await,
            content => client.say(&format!("{content}\r\n.")).await,
        };
        assert!(reply.starts_with(code), "{content}: {reply}");
        assert!(
            client.say("NOOP").await.starts_with("250 "),
            "the session continues"
        );
    }
}

#[tokio::test]
async fn a_client_that_speaks_another_protocol_is_disconnected_at_once() {
    let world = World::new().await;
    let (_http, address) = serve_lmtp(&world, "").await;
    for opening in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\nLHLO a\r\n",
        "POST /v1/bounces HTTP/1.1\r\nContent-Length: 30\r\n\r\nLHLO a\r\nMAIL FROM:<>\r\n",
        "CONNECT mx.example.com:25 HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
        "\u{16}\u{3}\u{1}\u{0}\r\n",
        &format!("GET /{} HTTP/1.1\r\n", "x".repeat(4_000)),
    ] {
        let mut client = LmtpClient::connect(address).await;
        client.send(opening).await;
        let reply = client.read_reply().await;
        assert!(reply.starts_with("421 4.7.0 "), "{opening:?}: {reply}");
    }
}

#[tokio::test]
async fn the_number_of_commands_without_a_message_is_bounded() {
    let world = World::new().await;
    let (_http, address) = serve_lmtp(&world, "recipients_max = 1\n").await;
    for line in [
        "NOOP",
        "RSET",
        "LHLO client.example",
        "VRFY jo",
        "MAIL FROM:<> SIZE=999999999",
    ] {
        let mut client = LmtpClient::connect(address).await;
        client.say("LHLO client.example").await;
        let mut sent = 0;
        while !client.say(line).await.starts_with("421 4.7.0 ") {
            sent += 1;
            assert!(sent < 2_000, "{line}");
        }
        assert!(
            sent >= 900,
            "{line}: a mail server is not disconnected so soon"
        );
    }
}

#[tokio::test]
async fn an_idle_client_is_disconnected_to_make_room_and_one_that_sends_a_message_is_not() {
    let world = World::new().await;
    let (_http, address) = serve_lmtp(&world, "connections = 2\nconnections_per_peer = 2\n").await;
    let mut idle = LmtpClient::connect(address).await;
    let mut sending = at_data(address).await;
    let mut third = LmtpClient::connect(address).await;
    assert!(
        idle.read_reply().await.starts_with("421 4.3.2 "),
        "this client was idle for longest"
    );
    for line in ["LHLO client.example", "MAIL FROM:<>"] {
        assert!(third.say(line).await.starts_with("250"), "{line}");
    }
    let (mut fourth, mut refused) = (TcpStream::connect(address).await.unwrap(), String::new());
    in_time("a refusal", fourth.read_to_string(&mut refused))
        .await
        .unwrap();
    assert!(
        refused.starts_with("421 4.3.2 "),
        "{refused}: both clients send a message"
    );
    assert!(sending.say("Subject: x\r\n\r\n.").await.starts_with("250 "));
}
