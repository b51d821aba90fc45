//! While Redis is away, bounces are answered with 503 and workers wait. When it is back, all work
//! continues by itself.

use domain::clock::Timestamp;
use domain::event::EventKind;
use harness::bounce::{FULL, bounce};
use harness::http::{Http, problem};
use harness::wait::eventually;
use harness::world::{Deployment, Settings, World};
use private_servers::redis::PrivateRedis;
use tempfile::TempDir;

const JO: &str = "jo@example.com";

/// A Redis for one test. The test can stop it and start it again with its data.
async fn redis(folder: &TempDir) -> PrivateRedis {
    PrivateRedis::durable(folder.path())
        .await
        .expect("redis-server is installed")
}

async fn world_on(redis: &PrivateRedis) -> World {
    World::with(Settings {
        redis: Deployment::Server(redis.url()),
        ..Settings::default()
    })
    .await
}

#[tokio::test]
async fn intake_answers_503_with_a_retry_time_until_redis_is_back() {
    let folder = TempDir::new().unwrap();
    let server = redis(&folder).await;
    let world = world_on(&server).await;
    let http = Http::serve(&world).await;
    let ready = || async { http.get("/readyz").send().await.unwrap().status() };
    assert_eq!(ready().await, 200);

    server.stop().await;
    let document = bounce(JO, "m1", FULL);
    for turned_away in [
        http.post_json(&document).await,
        http.post_lines(document.to_string()).await,
    ] {
        let after = turned_away
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
        assert!(after.is_some_and(|seconds| seconds > 0));
        problem(turned_away, 503).await;
    }
    assert_eq!(ready().await, 503);
    assert_eq!(
        http.get("/healthz").send().await.unwrap().status(),
        200,
        "the process itself is healthy"
    );

    let _server = redis(&folder).await;
    assert_eq!(http.post_json(&document).await.status(), 202);
    assert_eq!(world.waiting(JO).await, ["m1"]);
}

#[tokio::test]
async fn a_worker_waits_for_redis_and_continues_by_itself() {
    let folder = TempDir::new().unwrap();
    let server = redis(&folder).await;
    let world = world_on(&server).await;
    let later = world
        .post_and_wait_until_due(bounce("sam@example.com", "m2", FULL))
        .await;
    world.clock.set(Timestamp::from_ms(later.ms() - 30_000));
    let mut long_ago = bounce(JO, "m1", FULL);
    long_ago["occurred_at"] = "2026-11-01T00:00:00Z".into();
    world.post_and_wait_until_due(long_ago).await;

    // One attempt is in flight when Redis stops, and one job becomes due while it is away.
    world.mail.hold();
    let worker = world.start_worker(|_| {});
    world.mail.wait_for_attempts(1).await;
    server.stop().await;
    world.clock.set(later);
    world.mail.release_held();
    let _server = redis(&folder).await;

    let finals = eventually("both deliveries", async || {
        let finals = world.final_events().await;
        (finals.len() == 2).then_some(finals)
    })
    .await;
    worker.stopped().await;
    assert!(
        finals
            .iter()
            .all(|(kind, ..)| *kind == EventKind::MessageDelivered),
        "{finals:?}"
    );
    assert_eq!(world.mail.tried().len(), 2, "no attempt was made twice");
}
