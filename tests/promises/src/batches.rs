//! NDJSON is taken in by batches: all requests together have no more of them under way than
//! `scheduler.batches`, and what comes behind a batch that failed is not taken in.

use std::time::Duration;

use config::model::Config;
use harness::bounce::{FULL, bounce};
use harness::http::{Http, NDJSON, problem};
use harness::proxy::{Fault, RedisProxy};
use harness::redis;
use harness::wait::eventually;
use harness::world::World;
use tokio::time::timeout;

const JO: &str = "jo@example.com";

/// How long an answer may take that waits for nothing.
const SOON: Duration = Duration::from_millis(500);

/// Longer than any test: Redis may be as silent as it likes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A scheduler with this configuration, and the proxy between it and its Redis.
async fn behind_a_proxy(world: &World, config: &Config) -> (Http, RedisProxy) {
    let proxy = RedisProxy::before(&redis::url());
    let store = world.store_at(&proxy.url(), PATIENCE).await;
    (Http::serve_on(&store, config).await, proxy)
}

#[tokio::test]
async fn a_body_is_not_read_on_while_all_batches_are_under_way() {
    let world = World::new().await;
    let mut config = Config::embedded();
    config.scheduler.batches = 1;
    let (http, proxy) = behind_a_proxy(&world, &config).await;
    // A body without a bounce asks nothing of Redis, but needs room as any other.
    let without_bounce = async || timeout(SOON, http.post_lines("no bounce")).await;

    proxy.fall_silent();
    assert_eq!(without_bounce().await.expect("there is room").status(), 400);
    let body = bounce(JO, "m1", FULL).to_string();
    let held = tokio::spawn(
        http.post("/v1/bounces")
            .header("content-type", NDJSON)
            .body(body)
            .send(),
    );
    eventually("the only room is taken", async || {
        without_bounce().await.is_err().then_some(())
    })
    .await;

    proxy.let_through();
    assert_eq!(held.await.unwrap().unwrap().status(), 202);
    assert_eq!(
        without_bounce()
            .await
            .expect("there is room again")
            .status(),
        400
    );
}

#[tokio::test]
async fn what_comes_behind_a_batch_that_failed_is_not_taken_in() {
    let world = World::new().await;
    let mut config = Config::embedded();
    config.scheduler.batch = 1;
    let (http, proxy) = behind_a_proxy(&world, &config).await;
    let recipients: Vec<String> = (1..=8).map(|n| format!("user{n}@example.com")).collect();
    let lines: Vec<String> = recipients
        .iter()
        .map(|recipient| bounce(recipient, "m1", FULL).to_string())
        .collect();

    proxy.next("schedule", Fault::Unheard);
    problem(http.post_lines(lines.join("\n")).await, 503).await;
    assert_eq!(
        http.post_lines(bounce(JO, "m1", FULL).to_string())
            .await
            .status(),
        202
    );
    for recipient in &recipients {
        assert!(
            world.job_if_any(recipient).await.is_none(),
            "{recipient} came behind what failed"
        );
    }
}
