//! What comes in is bounded in what it can cost, and what Redis refuses for now is not lost.

use harness::bounce::{FULL, bounce};
use harness::http::{Http, NDJSON, json_lines, problem};
use harness::wait::eventually;
use harness::world::{Settings, World};
use serde_json::{Value, json};
use shared::event::EventKind;
use shared::store::private::PrivateRedis;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const JO: &str = "jo@example.com";

#[tokio::test]
async fn a_flood_of_large_messages_for_one_address_stays_within_the_bounds_of_a_job() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let flood = 300;
    let large = |n: usize| {
        let mut line = bounce(JO, &format!("m{n}"), FULL);
        line["content"] = json!({"inline": "x".repeat(60_000)});
        format!("{line}\n")
    };
    let answers = json_lines(http.post_lines((0..flood).map(large).collect::<String>()).await).await;
    assert_eq!(answers.len(), flood);
    assert!(answers.iter().all(|answer| answer["answer"] == "scheduled" || answer["answer"] == "joined"));

    let job = world.job(JO).await.job;
    assert!(job.record().len() <= 1 << 20, "{} bytes", job.record().len());
    assert_eq!(job.messages.last().unwrap().id, format!("m{}", flood - 1), "the newest is there");
    let replaced = world.final_events().await;
    assert_eq!(replaced.len() + job.messages.len(), flood, "each of the others was replaced, with its event");
    assert!(replaced.iter().all(|(kind, ..)| *kind == EventKind::MessageDropped));
}

#[tokio::test]
async fn a_document_of_more_items_than_allowed_is_turned_away_whole() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let items = Value::Array(vec![bounce(JO, "m1", FULL); 10_001]);
    let document = problem(http.post_json(&items).await, 413).await;
    assert!(document["detail"].as_str().unwrap().contains(NDJSON), "it says what to do instead: {document}");
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn an_attempt_that_redis_refuses_to_settle_for_now_is_settled_later_and_not_repeated() {
    let redis = PrivateRedis::volatile().await.expect("redis-server is installed");
    let world = World::with(Settings { url: redis.url(), ..Settings::default() }).await;
    let http = Http::serve(&world).await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    world.mail.hold();
    let worker = world.start_worker(|_| {});
    world.mail.has_been_tried(1).await;

    // As when a replica is lost, or the disk is full: reads go on, writes are refused.
    command(&redis, "CONFIG SET min-replicas-to-write 1").await;
    problem(http.post_json(&bounce("sam@example.com", "m1", FULL)).await, 503).await;
    world.mail.let_go();
    eventually("the attempt has ended", async || (world.mail.in_flight() == 0).then_some(())).await;
    command(&redis, "CONFIG SET min-replicas-to-write 0").await;

    eventually("it is settled", async || world.job_if_any(JO).await.is_none().then_some(())).await;
    worker.stopped().await;
    assert_eq!(world.mail.messages(), ["m1"], "sent once");
    assert_eq!(world.final_events().await, [(EventKind::MessageDelivered, "m1".to_owned(), None)]);
}

async fn command(redis: &PrivateRedis, command: &str) {
    let url = redis.url();
    let mut stream = UnixStream::connect(url.trim_start_matches("redis+unix://")).await.unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"+OK\r\n", "{command}");
}

#[tokio::test]
async fn a_message_for_a_route_that_is_not_configured_is_refused_with_those_that_are() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let mut astray = bounce(JO, "m1", FULL);
    astray["route"] = json!("defualt");
    let answers = json_lines(http.post_lines(format!("\n{}\n{astray}\n", bounce(JO, "m2", FULL))).await).await;
    assert_eq!(answers[0]["answer"], "scheduled");
    assert_eq!((&answers[1]["answer"], &answers[1]["field"]), (&json!("refused"), &json!("route")));
    assert_eq!(answers[1]["line"], 3, "blank lines count: {}", answers[1]);
    assert!(answers[1]["reason"].as_str().unwrap().contains("default"), "{}", answers[1]);
}
