//! A server that accepts connections but does not answer is noticed within one time limit. After
//! that a new connection is used.

use std::time::Instant;

use super::*;

/// How long it may take until silence is noticed: one time limit, and some time for a busy machine.
/// It is less than one time limit for each connection of the pool.
const NOTICED_WITHIN: Duration = Duration::from_millis(1_200);

/// The size of the connection pool. All its connections are idle.
const POOL: usize = 8;

/// Opens all connections of the pool, by slow calls at the same time.
async fn with_a_full_pool() -> Faulty {
    let faulty = Faulty::new().await;
    faulty
        .proxy
        .choose_faults(|name| (name == "PING").then_some(Fault::Late(TIMEOUT / 3)));
    let pings = join_all([0; POOL].map(|_| faulty.store.ping())).await;
    assert!(pings.iter().all(Result::is_ok), "{pings:?}");
    assert_eq!(faulty.proxy.connections().open, POOL);
    faulty.proxy.choose_faults(|_| None);
    faulty
}

#[tokio::test]
async fn a_call_on_a_silent_server_ends_within_one_time_limit_however_many_connections_are_idle() {
    let faulty = with_a_full_pool().await;
    faulty.proxy.fall_silent();
    let asked = Instant::now();
    assert!(is_unavailable(&faulty.store.ping().await));
    let noticed = asked.elapsed();
    assert!((TIMEOUT..NOTICED_WITHIN).contains(&noticed), "{noticed:?}");

    // Calls that are made meanwhile do not wait for each other either.
    let asked = Instant::now();
    let pings = join_all([0; 3 * POOL].map(|_| faulty.store.ping())).await;
    assert!(pings.iter().all(is_unavailable));
    assert!(
        asked.elapsed() < 2 * NOTICED_WITHIN,
        "{:?}",
        asked.elapsed()
    );

    faulty.proxy.let_through();
    assert!(faulty.store.ping().await.is_ok());
    assert!(
        faulty.proxy.connections().made > POOL,
        "the call used a new connection"
    );
}

#[tokio::test]
async fn a_connection_whose_answer_never_comes_is_replaced() {
    let faulty = Faulty::with_a_second_attempt_due().await;
    let before = faulty.proxy.connections();
    faulty.proxy.plan("claim", Fault::Hung);
    assert!(is_unavailable(&faulty.claim().await));
    faulty.proxy.wait_for_open(before.open - 1).await;
    assert!(faulty.claim().await.is_ok());
    assert_eq!(faulty.proxy.connections().made, before.made + 1);
}

#[tokio::test]
async fn a_scheduler_whose_redis_is_silent_answers_within_the_time_limit_that_it_is_not_ready() {
    let faulty = with_a_full_pool().await;
    let http = Http::serve_on(&faulty.store, &Config::embedded()).await;
    faulty.proxy.fall_silent();
    let asked = Instant::now();
    problem(http.get("/readyz").send().await.unwrap(), 503).await;
    problem(http.post_json(&bounce(JO, "m1", FULL)).await, 503).await;
    assert!(
        asked.elapsed() < 2 * NOTICED_WITHIN,
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(
        http.get("/healthz").send().await.unwrap().status(),
        200,
        "the process itself is healthy"
    );

    faulty.proxy.let_through();
    assert_eq!(http.get("/readyz").send().await.unwrap().status(), 200);
    assert_eq!(http.post_json(&bounce(JO, "m1", FULL)).await.status(), 202);
    assert_eq!(faulty.world.waiting(JO).await, ["m1"]);
}

#[tokio::test]
async fn a_worker_continues_by_itself_when_a_silent_server_answers_again() {
    let faulty = Faulty::with_a_second_attempt_due().await;
    let (world, proxy) = (&faulty.world, &faulty.proxy);
    world.mail.reply_with(OK);
    world.mail.hold();
    let worker = world.start_worker_on(&faulty.store, |_| {});
    world.mail.wait_for_attempts(2).await;
    proxy.fall_silent();
    world.mail.release_held();
    // The worker has given up connections and made new ones more than once.
    let made = proxy.connections().made;
    proxy.wait_for_made(made + 3).await;
    assert_eq!(world.final_events().await, []);

    proxy.let_through();
    eventually("the delivery", async || {
        (world.final_events().await.len() == 1).then_some(())
    })
    .await;
    world
        .post_and_wait_until_due(bounce("sam@example.com", "m2", FULL))
        .await;
    world.mail.wait_for_attempts(3).await;
    worker.stopped().await;
    assert_eq!(
        world.mail.messages(),
        ["m1", "m1", "m2"],
        "no attempt was made twice"
    );
    assert_eq!(world.final_events().await.len(), 2);
}

#[tokio::test]
async fn a_worker_continues_by_itself_when_connections_are_accepted_again() {
    let faulty = Faulty::with_a_second_attempt_due().await;
    let (world, proxy) = (&faulty.world, &faulty.proxy);
    world.mail.reply_with(OK);
    world.mail.hold();
    let worker = world.start_worker_on(&faulty.store, |_| {});
    world.mail.wait_for_attempts(2).await;
    proxy.close();
    world.mail.release_held();
    eventually("the attempt has ended", async || {
        (world.mail.in_flight() == 0).then_some(())
    })
    .await;
    // One round of claims makes fewer connections than this, so the settle call was refused too.
    proxy.wait_for_made(proxy.connections().made + 6).await;
    assert!(is_unavailable(&faulty.store.ping().await));
    assert_eq!(world.final_events().await, []);
    proxy.let_through();
    eventually("the delivery", async || {
        (world.final_events().await.len() == 1).then_some(())
    })
    .await;
    worker.stopped().await;
    assert_eq!(world.mail.tried().len(), 2, "no attempt was made twice");
}
