//! What comes in is bounded in what it can cost, and what Redis refuses for now is not lost.

use domain::destination::Destination;
use domain::event::EventKind;
use harness::bounce::{FULL, OK, bounce};
use harness::http::{Http, NDJSON, json_lines, problem};
use harness::redis;
use harness::wait::eventually;
use harness::world::{DAY, Deployment, LEASE, Settings, World};
use private_servers::redis::PrivateRedis;
use serde_json::{Value, json};
use store::claim::ClaimBounds;
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
    let answers = json_lines(
        http.post_lines((0..flood).map(large).collect::<String>())
            .await,
    )
    .await;
    assert_eq!(answers.len(), flood);
    assert!(
        answers
            .iter()
            .all(|answer| answer["answer"] == "scheduled" || answer["answer"] == "joined")
    );

    let job = world.job(JO).await.job;
    assert!(
        job.record().len() <= 1 << 20,
        "{} bytes",
        job.record().len()
    );
    assert_eq!(
        job.messages.last().unwrap().id,
        format!("m{}", flood - 1),
        "the newest is there"
    );
    let replaced = world.final_events().await;
    assert_eq!(
        replaced.len() + job.messages.len(),
        flood,
        "each of the others was replaced, with its event"
    );
    assert!(
        replaced
            .iter()
            .all(|(kind, ..)| *kind == EventKind::MessageDropped)
    );
}

#[tokio::test]
async fn a_document_of_more_items_than_allowed_is_turned_away_whole() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let items = Value::Array(vec![bounce(JO, "m1", FULL); 10_001]);
    let document = problem(http.post_json(&items).await, 413).await;
    assert!(
        document["detail"].as_str().unwrap().contains(NDJSON),
        "it says what to do instead: {document}"
    );
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn an_attempt_that_redis_refuses_to_settle_for_now_is_settled_later_and_not_repeated() {
    let redis = PrivateRedis::volatile()
        .await
        .expect("redis-server is installed");
    let world = World::with(Settings {
        redis: Deployment::Server(redis.url()),
        ..Settings::default()
    })
    .await;
    let http = Http::serve(&world).await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    world.mail.hold();
    let worker = world.start_worker(|_| {});
    world.mail.has_been_tried(1).await;

    // As when a replica is lost, or the disk is full: reads go on, writes are refused.
    say(&redis.url(), "CONFIG SET min-replicas-to-write 1", "+OK").await;
    problem(
        http.post_json(&bounce("sam@example.com", "m1", FULL)).await,
        503,
    )
    .await;
    world.mail.let_go();
    eventually("the attempt has ended", async || {
        (world.mail.in_flight() == 0).then_some(())
    })
    .await;
    say(&redis.url(), "CONFIG SET min-replicas-to-write 0", "+OK").await;

    eventually("it is settled", async || {
        world.job_if_any(JO).await.is_none().then_some(())
    })
    .await;
    worker.stopped().await;
    assert_eq!(world.mail.messages(), ["m1"], "sent once");
    assert_eq!(
        world.final_events().await,
        [(EventKind::MessageDelivered, "m1".to_owned(), None)]
    );
}

/// Says a command to the Redis at `url`, which has to answer this.
async fn say(url: &str, command: &str, expected: &str) {
    let mut stream = UnixStream::connect(url.trim_start_matches("redis+unix://"))
        .await
        .unwrap();
    stream
        .write_all(format!("{command}\r\n").as_bytes())
        .await
        .unwrap();
    let expected = format!("{expected}\r\n");
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, expected.as_bytes(), "{command}");
}

#[tokio::test]
async fn a_message_for_a_route_that_is_not_configured_is_refused_with_those_that_are() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let mut astray = bounce(JO, "m1", FULL);
    astray["route"] = json!("defualt");
    let answers = json_lines(
        http.post_lines(format!("\n{}\n{astray}\n", bounce(JO, "m2", FULL)))
            .await,
    )
    .await;
    assert_eq!(answers[0]["answer"], "scheduled");
    assert_eq!(
        (&answers[1]["answer"], &answers[1]["field"]),
        (&json!("refused"), &json!("route"))
    );
    assert_eq!(answers[1]["line"], 3, "blank lines count: {}", answers[1]);
    assert!(
        answers[1]["reason"].as_str().unwrap().contains("default"),
        "{}",
        answers[1]
    );
}

#[tokio::test]
async fn a_record_that_nobody_can_read_keeps_no_other_job_from_being_worked_on() {
    let world = World::new().await;
    world.take_in(bounce(JO, "m1", FULL)).await;
    world.take_in(bounce("sam@example.com", "m1", FULL)).await;
    let shard = Destination::named("example.com").shard(world.store.shards());
    let command = format!(
        "HSET {}:{{{shard}}}:jobs default/{JO} no-record",
        world.prefix
    );
    say(&redis::url(), &command, ":0").await;
    world.clock.advance(2 * DAY);
    let bounds = ClaimBounds {
        batch: 1,
        share: 1,
        lease: LEASE,
        unproven: usize::MAX,
    };
    let (mut corrupt, mut delivered) = (0, 0);
    // It is leased and lapses like any other, until it is in quarantine.
    for _ in 0..12 {
        let claimed = world.store.claim(shard, bounds).await.unwrap();
        corrupt += claimed.corrupt.len();
        delivered += claimed.jobs.len();
        world.end(claimed.jobs, OK).await;
        world.clock.advance(LEASE);
    }
    assert_eq!((corrupt, delivered), (5, 1));
    assert_eq!(world.pace("example.com").await.in_flight, 0);
    assert_eq!(world.store.quarantined(shard, 0, 9).await.unwrap().len(), 1);
}
