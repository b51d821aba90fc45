//! A clock that is an hour ahead may be corrected. The times that were recorded before do not make
//! any work wait for an hour.

use domain::clock::Timestamp;
use domain::event::EventKind;
use domain::pace::{Breaker, Pace, PaceLimits};
use harness::bounce::{FULL, MAINTENANCE, OK, bounce};
use harness::redis;
use harness::world::{DAY, HOUR, LEASE, MS, SECOND, Settings, World};
use serde_json::{Value, json};
use store::schedule::Answer;
use store::workers::WorkerId;

const DESTINATION: &str = "one.example";
const JO: &str = "jo@example.com";

/// Sets the clock back by an hour. Then repairs all shards, as upkeep does when it notices the
/// change.
async fn set_back(world: &World) {
    world.clock.set(Timestamp::from_ms(
        world.now().ms() - HOUR.as_millis() as i64,
    ));
    for shard in 0..world.store.shards() {
        let repaired = world.store.repair(shard).await.unwrap();
        assert_eq!(repaired, Default::default(), "nothing is lost");
    }
}

/// A world in which jobs have been due at one destination for more than an hour.
async fn world_with_due_jobs(pace: Pace) -> World {
    let pace = Pace {
        window_new: 20,
        ..pace
    };
    let world = World::with(Settings {
        pace,
        ..Settings::default()
    })
    .await;
    world.post_due_jobs(DESTINATION, 5).await;
    world.clock.advance(2 * HOUR);
    world
}

#[tokio::test]
async fn a_rate_limit_saves_up_tokens_from_the_corrected_time_on() {
    let limits = PaceLimits {
        rate: 1.0,
        burst: 1.0,
        window: 200,
    };
    let world = world_with_due_jobs(Pace {
        limits,
        ..Pace::default()
    })
    .await;
    world
        .attempt_and_settle(world.claim_near(DESTINATION, 5).await.jobs, OK)
        .await;
    assert_eq!(world.events_of(EventKind::MessageDelivered).await.len(), 1);
    set_back(&world).await;
    assert_eq!(
        world.claim_near(DESTINATION, 5).await.jobs.len(),
        0,
        "less than a second has passed"
    );
    world.clock.advance(SECOND);
    assert_eq!(world.claim_near(DESTINATION, 5).await.jobs.len(), 1);
}

#[tokio::test]
async fn a_breaker_stays_open_no_longer_than_its_time_after_the_correction() {
    let breaker = Breaker {
        failures: 1,
        open: 60 * SECOND,
        open_max: DAY,
        ..Pace::default().breaker
    };
    let world = world_with_due_jobs(Pace {
        breaker,
        ..Pace::default()
    })
    .await;
    world
        .attempt_and_settle(world.claim_near(DESTINATION, 1).await.jobs, MAINTENANCE)
        .await;
    assert_eq!(world.events_of(EventKind::BreakerOpened).await.len(), 1);
    set_back(&world).await;
    assert_eq!(
        world.claim_near(DESTINATION, 5).await.jobs.len(),
        0,
        "the breaker is open"
    );
    world.clock.advance(60 * SECOND);
    assert_eq!(
        world.claim_near(DESTINATION, 5).await.jobs.len(),
        1,
        "a probe"
    );
}

#[tokio::test]
async fn the_jobs_of_a_dead_worker_come_back_after_the_normal_length_of_its_lease() {
    let world = world_with_due_jobs(Pace::default()).await;
    assert_eq!(world.claim_near(DESTINATION, 5).await.jobs.len(), 5);
    set_back(&world).await;
    world.clock.advance(LEASE - MS);
    assert_eq!(
        world.claim_near(DESTINATION, 5).await.jobs.len(),
        0,
        "the lease lasts its normal length"
    );
    world.clock.advance(MS);
    assert_eq!(world.claim_near(DESTINATION, 5).await.jobs.len(), 5);
}

#[tokio::test]
async fn the_lease_of_a_live_worker_is_corrected_by_its_next_extension() {
    let world = world_with_due_jobs(Pace::default()).await;
    let leased = world.claim_near(DESTINATION, 1).await.jobs.remove(0);
    world.clock.set(Timestamp::from_ms(
        world.now().ms() - HOUR.as_millis() as i64,
    ));
    world.extend(&leased.lease).await;
    assert_eq!(
        world.job(leased.lease.recipient()).await.leased_until,
        Some(world.now().plus(LEASE))
    );
}

#[tokio::test]
async fn a_destination_with_a_backlog_is_visited_at_once_after_the_correction() {
    let world = world_with_due_jobs(Pace::default()).await;
    // If jobs are left, the agenda contains the time of the claim.
    world
        .attempt_and_settle(world.claim_near(DESTINATION, 2).await.jobs, OK)
        .await;
    set_back(&world).await;
    assert_eq!(world.claim_near(DESTINATION, 5).await.jobs.len(), 3);
}

fn occurring_now(world: &World, mut item: Value) -> Value {
    item["occurred_at"] = world.now().to_string().into();
    item
}

#[tokio::test]
async fn a_current_event_is_not_stale_because_of_a_record_from_the_future() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    assert_eq!(world.work().await, 1);
    set_back(&world).await;
    let answer = world
        .post_bounce(occurring_now(&world, bounce(JO, "m2", FULL)))
        .await;
    assert!(
        matches!(answer, Answer::Scheduled { .. }),
        "a bounce after a delivery: {answer:?}"
    );

    let complaint = |world: &World| {
        occurring_now(
            world,
            json!({"type": "complaint", "recipient": "sue@example.com"}),
        )
    };
    world.report_fact(complaint(&world)).await;
    world.reinstate("sue@example.com").await;
    set_back(&world).await;
    let answer = world.report_fact(complaint(&world)).await;
    assert!(
        format!("{answer:?}").starts_with("Suppressed"),
        "a complaint after a reinstatement: {answer:?}"
    );
}

#[tokio::test]
async fn the_heartbeat_of_a_dead_worker_is_removed_even_if_it_lies_in_the_future() {
    let world = World::new().await;
    let (gone, alive) = (WorkerId::unique(), WorkerId::unique());
    let in_an_hour = (std::time::SystemTime::now() + HOUR)
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let key = format!("{}:workers", world.prefix);
    let command = [
        "ZADD",
        &key,
        &in_an_hour.as_millis().to_string(),
        &gone.to_string(),
    ];
    redis::ask(&redis::url(), &command).await;
    assert_eq!(
        world.store.heartbeat(alive, 15 * SECOND).await.unwrap(),
        [alive]
    );
}
