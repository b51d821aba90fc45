//! If a domain for reports is configured, mail leaves with a signed return path that identifies its
//! account, recipient and message.

use std::time::Duration;

use domain::address::Address;
use domain::clock::Clock;
use harness::bounce::{FULL, bounce};
use harness::http;
use harness::port::free_port;
use harness::process::Redeliver;
use harness::redis;
use harness::smtp::SmtpPeer;
use harness::wait::eventually;
use serde_json::json;
use signing::return_path::Verp;
use system::clock::SystemClock;

const KEY: &str = "a key of at least sixteen octets";

#[tokio::test]
async fn mail_leaves_with_a_signed_return_path_that_identifies_its_recipient_and_message() {
    let (redis, prefix, port) = (redis::url(), redis::unique_prefix(), free_port());
    let peer = SmtpPeer::agreeable().await;
    let config = format!(
        "[redis]\nurl = \"{redis}\"\nprefix = \"{prefix}\"\n[scheduler]\n\
         listen = \"127.0.0.1:{port}\"\n\
         [verp]\ndomain = \"bounce.example\"\nkey = \"{KEY}\"\n\
         [[route]]\nname = \"default\"\nsender = \"smtp\"\nhost = \"{}\"\nport = {}\n",
        peer.address.ip(),
        peer.address.port()
    );
    let _scheduler = Redeliver::start("scheduler", &config);
    let _worker = Redeliver::start("worker", &config);
    let mut due = bounce("jo@example.com", "<c42.9@news.example>", FULL);
    due["occurred_at"] = json!("2020-01-01T00:00:00Z");
    due["envelope_from"] = json!("news@shop.example");
    due["content"] = json!({"inline": "Subject: x\r\n\r\nx\r\n"});
    let post = async || {
        let request = http::client()
            .post(format!("http://127.0.0.1:{port}/v1/bounces"))
            .json(&due);
        request
            .send()
            .await
            .ok()
            .filter(|response| response.status() == 202)
    };
    eventually("the scheduler to accept the bounce", post).await;
    peer.wait_for_command("MAIL", 1).await;

    let received = peer
        .received()
        .into_iter()
        .find(|received| received.command.starts_with("MAIL"))
        .unwrap()
        .command;
    let path = received.split(['<', '>']).nth(1).unwrap();
    let verp = Verp::new(
        "bounce.example",
        KEY.as_bytes(),
        Duration::from_secs(86_400),
    );
    let token = verp
        .decode(path, SystemClock.now())
        .unwrap_or_else(|| panic!("the return path is signed: {received}"));
    assert!(
        token.is_for(&Address::parse("jo@example.com").unwrap())
            && token.names("<c42.9@news.example>")
    );
    assert!(!token.is_for(&Address::parse("sam@example.com").unwrap()));
}
