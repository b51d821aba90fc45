//! An address that complains or unsubscribes gets no mail after the answer to that request, even if
//! a worker is sending to it at that moment.

use std::time::Duration;

use config::model::Config;
use harness::bounce::{FULL, bounce};
use harness::http::{Http, json, problem};
use harness::process::Redeliver;
use harness::redis;
use harness::smtp::{Act, SmtpPeer};
use harness::world::{LEASE, Settings, World};
use reqwest::Response;
use serde_json::json;

const JO: &str = "jo@example.com";

/// How many messages wait for Jo. The server takes about 150 ms for each.
const MESSAGES: usize = 24;

/// Reports a complaint of Jo. Returns the answer.
async fn complain(http: &Http) -> Response {
    let complaint = json!({"type": "complaint", "recipient": JO});
    let request = http.post("/v1/facts").json(&complaint);
    request.send().await.unwrap()
}

/// Reports a complaint of Jo. Its answer must be that the address is suppressed.
async fn complain_and_suppress(http: &Http, why: &str) {
    let answer = json(complain(http).await).await;
    assert_eq!(answer["answer"], "suppressed", "{why}");
}

/// A world with this many messages for Jo. They are due by the clock of a real worker.
async fn world_with_messages(count: usize) -> World {
    let world = World::with(Settings::days_behind()).await;
    for n in 0..count {
        let mut bounce = bounce(JO, &format!("m{n}"), FULL);
        bounce["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
        world.post_bounce(bounce).await;
    }
    world
}

/// A worker in a process of its own. It sends all mail to `peer`.
fn start_worker(world: &World, peer: &SmtpPeer) -> Redeliver {
    let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
    let port = peer.address.port();
    Redeliver::start(
        "worker",
        &format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[worker]\n\
             poll_max = \"10ms\"\n\
             [log]\nfilter = \"error\"\n[[route]]\nname = \"default\"\nsender = \"smtp\"\n\
             host = \"127.0.0.1\"\nport = {port}\n"
        ),
    )
}

#[tokio::test]
async fn no_message_is_sent_after_the_answer_to_a_complaint() {
    let world = world_with_messages(MESSAGES).await;
    let peer = SmtpPeer::agreeable_except(".", Act::Drip("250 2.0.0 ok", 12)).await;
    let http = Http::serve(&world).await;
    let worker = start_worker(&world, &peer);
    peer.wait_for_command("MAIL", 2).await;
    let answer = complain(&http).await;
    let sent = peer.connections_of("MAIL").len();
    assert_eq!(json(answer).await["answer"], "suppressed");
    assert!(worker.terminate().await.success());
    assert_eq!(
        peer.connections_of("MAIL").len(),
        sent,
        "no message was started after the answer"
    );
    assert!(
        sent < MESSAGES,
        "all {sent} messages were sent before the complaint arrived"
    );
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn an_attempt_that_has_not_sent_its_message_yet_is_stopped_before_the_answer() {
    let world = world_with_messages(1).await;
    let peer = SmtpPeer::agreeable_except("MAIL", Act::Hang).await;
    let http = Http::serve(&world).await;
    let worker = start_worker(&world, &peer);
    peer.wait_for_command("MAIL", 1).await;
    complain_and_suppress(&http, "the worker has reported that it stopped").await;
    assert!(worker.terminate().await.success());
    assert!(peer.contents().is_empty());
}

#[tokio::test]
async fn the_answer_waits_briefly_for_a_message_that_is_already_sent() {
    let world = world_with_messages(2).await;
    let peer = SmtpPeer::agreeable_except(".", Act::Hang).await;
    let http = Http::serve(&world).await;
    let worker = start_worker(&world, &peer);
    peer.wait_for_command(".", 1).await;
    complain_and_suppress(&http, "the worker has reported that it stopped").await;
    assert_eq!(
        peer.connections_of("MAIL").len(),
        1,
        "the second message was not started"
    );
    assert!(worker.terminate().await.success());
    assert_eq!(peer.connections_of("MAIL").len(), 1);
}

#[tokio::test]
async fn until_a_worker_reports_that_it_stopped_or_its_lease_ends_a_complaint_is_answered_with_503()
{
    let world = World::new().await;
    let mut config = Config::embedded();
    config.scheduler.suppress_timeout = Duration::from_millis(200);
    let http = Http::serve_with(&world, &config).await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.claim_one().await;
    for _ in 0..2 {
        let document = problem(complain(&http).await, 503).await;
        assert!(
            document["detail"]
                .as_str()
                .unwrap()
                .contains("tell it again"),
            "{document}"
        );
    }
    assert!(
        world.job_if_any(JO).await.is_none(),
        "the waiting message is dropped anyway"
    );
    world.clock.advance(LEASE);
    complain_and_suppress(&http, "the lease has ended").await;
}

#[tokio::test]
async fn a_complaint_is_answered_at_once_if_no_worker_has_the_address() {
    let world = World::new().await;
    let mut config = Config::embedded();
    config.scheduler.suppress_timeout = Duration::from_millis(1);
    let http = Http::serve_with(&world, &config).await;
    world
        .post_and_wait_until_due(bounce("sam@example.com", "m1", FULL))
        .await;
    world.claim_one().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    complain_and_suppress(&http, "only another address is in progress").await;
}
