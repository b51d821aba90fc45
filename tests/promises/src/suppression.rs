//! An address that complains or unsubscribes gets no mail after the answer to that request, even if
//! a worker is sending to it at that moment.

use std::time::Duration;

use config::model::Config;
use domain::clock::{Clock, Timestamp};
use harness::bounce::{FULL, bounce};
use harness::http::{Http, json, problem};
use harness::process::Redeliver;
use harness::redis;
use harness::smtp::{Act, SmtpPeer, agree};
use harness::world::{DAY, LEASE, Settings, World};
use serde_json::{Value, json};
use system::clock::SystemClock;

const JO: &str = "jo@example.com";

/// How many messages wait for Jo. The server takes about 150 ms for each.
const MESSAGES: usize = 24;

fn complaint() -> Value {
    json!({"type": "complaint", "recipient": JO})
}

/// A world with this many messages for Jo. Its present is days ago, so that they are long due by
/// the clock of a real worker.
async fn with_messages(count: usize) -> World {
    let epoch = Timestamp::default();
    let start = epoch.plus(SystemClock.now().since(epoch) - 3 * DAY);
    let world = World::with(Settings {
        start,
        ..Settings::default()
    })
    .await;
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
    let world = with_messages(MESSAGES).await;
    let slow = |command: &str| {
        if command == "." {
            Act::Drip("250 2.0.0 ok", 12)
        } else {
            agree(command)
        }
    };
    let peer = SmtpPeer::start(move |received| slow(&received.command)).await;
    let http = Http::serve(&world).await;
    let worker = start_worker(&world, &peer);
    peer.wait_for_command("MAIL", 2).await;
    let answer = http
        .post("/v1/facts")
        .json(&complaint())
        .send()
        .await
        .unwrap();
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
    let world = with_messages(1).await;
    let hangs = |command: &str| {
        if command.starts_with("MAIL") {
            Act::Hang
        } else {
            agree(command)
        }
    };
    let peer = SmtpPeer::start(move |received| hangs(&received.command)).await;
    let http = Http::serve(&world).await;
    let worker = start_worker(&world, &peer);
    peer.wait_for_command("MAIL", 1).await;
    let answer = http
        .post("/v1/facts")
        .json(&complaint())
        .send()
        .await
        .unwrap();
    assert_eq!(
        json(answer).await["answer"],
        "suppressed",
        "the worker has reported that it stopped"
    );
    assert!(worker.terminate().await.success());
    assert!(peer.contents().is_empty());
}

#[tokio::test]
async fn the_answer_waits_briefly_for_a_message_that_is_already_sent() {
    let world = with_messages(2).await;
    let hangs = |command: &str| {
        if command == "." {
            Act::Hang
        } else {
            agree(command)
        }
    };
    let peer = SmtpPeer::start(move |received| hangs(&received.command)).await;
    let http = Http::serve(&world).await;
    let worker = start_worker(&world, &peer);
    peer.wait_for_command(".", 1).await;
    let answer = http
        .post("/v1/facts")
        .json(&complaint())
        .send()
        .await
        .unwrap();
    assert_eq!(
        json(answer).await["answer"],
        "suppressed",
        "the worker has reported that it stopped"
    );
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
        let answer = http
            .post("/v1/facts")
            .json(&complaint())
            .send()
            .await
            .unwrap();
        let document = problem(answer, 503).await;
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
    let answer = http
        .post("/v1/facts")
        .json(&complaint())
        .send()
        .await
        .unwrap();
    assert_eq!(json(answer).await["answer"], "suppressed");
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
    let answer = http
        .post("/v1/facts")
        .json(&complaint())
        .send()
        .await
        .unwrap();
    assert_eq!(
        json(answer).await["answer"],
        "suppressed",
        "other addresses may be in progress"
    );
}
