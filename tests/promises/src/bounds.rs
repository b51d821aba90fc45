//! The cost of each input is bounded. An attempt that Redis temporarily refuses to record is not
//! lost.

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
async fn a_flood_of_large_messages_for_one_address_stays_within_the_limits_of_a_job() {
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
        "the newest message waits"
    );
    let replaced = world.final_events().await;
    assert_eq!(
        replaced.len() + job.messages.len(),
        flood,
        "each of the others was replaced and has an event"
    );
    assert!(
        replaced
            .iter()
            .all(|(kind, ..)| *kind == EventKind::MessageDropped)
    );
}

#[tokio::test]
async fn a_document_with_more_items_than_allowed_is_rejected_as_a_whole() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let items = Value::Array(vec![bounce(JO, "m1", FULL); 10_001]);
    let document = problem(http.post_json(&items).await, 413).await;
    assert!(
        document["detail"].as_str().unwrap().contains(NDJSON),
        "the error explains what to do instead: {document}"
    );
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn an_attempt_whose_outcome_redis_refuses_to_record_is_settled_later_and_not_repeated() {
    let redis = PrivateRedis::volatile()
        .await
        .expect("redis-server is installed");
    let world = World::with(Settings {
        redis: Deployment::Server(redis.url()),
        ..Settings::default()
    })
    .await;
    let http = Http::serve(&world).await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.mail.hold();
    let worker = world.start_worker(|_| {});
    world.mail.wait_for_attempts(1).await;

    // As after the loss of a replica, or with a full disk: reads work, writes are refused.
    send_command(&redis.url(), "CONFIG SET min-replicas-to-write 1", "+OK").await;
    problem(
        http.post_json(&bounce("sam@example.com", "m1", FULL)).await,
        503,
    )
    .await;
    world.mail.release_held();
    eventually("the attempt has ended", async || {
        (world.mail.in_flight() == 0).then_some(())
    })
    .await;
    send_command(&redis.url(), "CONFIG SET min-replicas-to-write 0", "+OK").await;

    eventually("the settlement", async || {
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

/// Sends a command to the Redis at `url`, and expects this answer.
async fn send_command(url: &str, command: &str, expected: &str) {
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
async fn a_message_for_an_unknown_route_is_refused_and_the_error_lists_the_configured_routes() {
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
async fn an_unreadable_job_record_does_not_stop_the_work_on_other_jobs() {
    let world = World::new().await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    world
        .post_bounce(bounce("sam@example.com", "m1", FULL))
        .await;
    let shard = Destination::named("example.com").shard(world.store.shards());
    let command = format!(
        "HSET {}:{{{shard}}}:jobs default/{JO} no-record",
        world.prefix
    );
    send_command(&redis::url(), &command, ":0").await;
    world.clock.advance(2 * DAY);
    let bounds = ClaimBounds {
        batch: 1,
        share: 1,
        lease: LEASE,
        unproven: usize::MAX,
    };
    let (mut corrupt, mut delivered) = (0, 0);
    // The unreadable job is leased and lapses like any other, until it is in quarantine.
    for _ in 0..12 {
        let claimed = world.store.claim(shard, bounds).await.unwrap();
        corrupt += claimed.corrupt.len();
        delivered += claimed.jobs.len();
        world.attempt_and_settle(claimed.jobs, OK).await;
        world.clock.advance(LEASE);
    }
    assert_eq!((corrupt, delivered), (5, 1));
    assert_eq!(world.pace("example.com").await.in_flight, 0);
    assert_eq!(world.store.quarantined(shard, 0, 9).await.unwrap().len(), 1);
}
