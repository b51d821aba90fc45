//! Who complains or unsubscribes gets nothing after the answer, also where a worker is sending at
//! that very moment.

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

/// Messages that wait for Jo. The server takes some 150 ms for each.
const MESSAGES: usize = 24;

fn complaint() -> Value {
    json!({"type": "complaint", "recipient": JO})
}

/// A world with so many messages for Jo, days back, so that they are long due by the clock of a
/// real worker.
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
        world.take_in(bounce).await;
    }
    world
}

/// A worker, as a process of its own, that hands all mail to `peer`.
fn start_worker(world: &World, peer: &SmtpPeer) -> Redeliver {
    let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
    let port = peer.address.port();
    Redeliver::start(
        "worker",
        &format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[worker]\npoll_max = \"10ms\"\n\
             [log]\nfilter = \"error\"\n[[route]]\nname = \"default\"\nsender = \"smtp\"\nhost = \"127.0.0.1\"\nport = {port}\n"
        ),
    )
}

#[tokio::test]
async fn nothing_is_sent_after_the_answer_to_a_complaint() {
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
    peer.has_heard("MAIL", 2).await;
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
        "none was begun after the answer"
    );
    assert!(
        sent < MESSAGES,
        "all {sent} of them were sent before the complaint was heard"
    );
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn an_attempt_that_has_sent_nothing_yet_is_broken_off_before_the_answer() {
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
    peer.has_heard("MAIL", 1).await;
    let answer = http
        .post("/v1/facts")
        .json(&complaint())
        .send()
        .await
        .unwrap();
    assert_eq!(
        json(answer).await["answer"],
        "suppressed",
        "its worker has said that it has stopped"
    );
    assert!(worker.terminate().await.success());
    assert!(peer.contents().is_empty());
}

#[tokio::test]
async fn a_message_that_is_out_is_waited_for_a_little_before_the_answer() {
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
    peer.has_heard(".", 1).await;
    let answer = http
        .post("/v1/facts")
        .json(&complaint())
        .send()
        .await
        .unwrap();
    assert_eq!(
        json(answer).await["answer"],
        "suppressed",
        "its worker has said that it has stopped"
    );
    assert_eq!(
        peer.connections_of("MAIL").len(),
        1,
        "the second was not begun"
    );
    assert!(worker.terminate().await.success());
    assert_eq!(peer.connections_of("MAIL").len(), 1);
}

#[tokio::test]
async fn a_worker_that_does_not_say_that_it_has_stopped_is_waited_for_until_its_lease_is_over() {
    let world = World::new().await;
    let mut config = Config::embedded();
    config.scheduler.suppress_timeout = Duration::from_millis(200);
    let http = Http::serve_with(&world, &config).await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
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
        "what waited is gone all the same"
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
async fn an_address_that_no_worker_is_at_is_answered_for_at_once() {
    let world = World::new().await;
    let mut config = Config::embedded();
    config.scheduler.suppress_timeout = Duration::from_millis(1);
    let http = Http::serve_with(&world, &config).await;
    world
        .take_in_and_wait(bounce("sam@example.com", "m1", FULL))
        .await;
    world.claim_one().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    let answer = http
        .post("/v1/facts")
        .json(&complaint())
        .send()
        .await
        .unwrap();
    assert_eq!(
        json(answer).await["answer"],
        "suppressed",
        "others may be under way"
    );
}
