//! NDJSON is processed in batches. All requests together have at most `scheduler.batches` batches
//! in progress. After a batch has failed, the later lines of its request are not processed.

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

/// How long an answer may take if it waits for nothing.
const SOON: Duration = Duration::from_millis(500);

/// The time limit of a call to Redis. It is longer than any test, so that no call fails because
/// Redis is silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// A scheduler with this configuration, and the proxy between the scheduler and its Redis.
async fn behind_a_proxy(world: &World, config: &Config) -> (Http, RedisProxy) {
    let proxy = RedisProxy::before(&redis::url());
    let store = world.store_at(&proxy.url(), PATIENCE).await;
    (Http::serve_on(&store, config).await, proxy)
}

#[tokio::test]
async fn a_request_body_is_read_no_further_while_all_batches_are_in_progress() {
    let world = World::new().await;
    let mut config = Config::embedded();
    config.scheduler.batches = 1;
    let (http, proxy) = behind_a_proxy(&world, &config).await;
    // A body without a bounce sends no call to Redis, but needs a free batch like any other.
    let without_bounce = async || timeout(SOON, http.post_lines("no bounce")).await;

    proxy.fall_silent();
    assert_eq!(
        without_bounce().await.expect("a batch is free").status(),
        400
    );
    let body = bounce(JO, "m1", FULL).to_string();
    let held = tokio::spawn(
        http.post("/v1/bounces")
            .header("content-type", NDJSON)
            .body(body)
            .send(),
    );
    eventually("the only batch is in progress", async || {
        without_bounce().await.is_err().then_some(())
    })
    .await;

    proxy.let_through();
    assert_eq!(held.await.unwrap().unwrap().status(), 202);
    assert_eq!(
        without_bounce()
            .await
            .expect("a batch is free again")
            .status(),
        400
    );
}

#[tokio::test]
async fn lines_after_a_failed_batch_are_not_processed() {
    let world = World::new().await;
    let mut config = Config::embedded();
    config.scheduler.batch = 1;
    let (http, proxy) = behind_a_proxy(&world, &config).await;
    let recipients: Vec<String> = (1..=8).map(|n| format!("user{n}@example.com")).collect();
    let lines: Vec<String> = recipients
        .iter()
        .map(|recipient| bounce(recipient, "m1", FULL).to_string())
        .collect();

    proxy.plan("schedule", Fault::RequestLost);
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
            "{recipient} came after the failed batch"
        );
    }
}
