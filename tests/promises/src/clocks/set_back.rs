//! What was noted by a clock that was an hour ahead does not hold anything up for an hour when that
//! clock is put right.

use domain::clock::Timestamp;
use domain::event::EventKind;
use domain::pace::{Breaker, Pace, PaceLimits};
use harness::bounce::{FULL, MAINTENANCE, OK, bounce};
use harness::redis;
use harness::world::{DAY, HOUR, LEASE, MS, SECOND, Settings, World};
use serde_json::{Value, json};
use store::schedule::Answer;
use store::workers::WorkerId;

const THERE: &str = "one.example";
const JO: &str = "jo@example.com";

/// Puts the clock back by an hour, and lets upkeep look at the store as it does when it notices.
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
async fn with_due(pace: Pace) -> World {
    let pace = Pace {
        window_new: 20,
        ..pace
    };
    let world = World::with(Settings {
        pace,
        ..Settings::default()
    })
    .await;
    world.with_due(THERE, 5).await;
    world.clock.advance(2 * HOUR);
    world
}

#[tokio::test]
async fn a_rate_saves_up_from_the_new_time_on() {
    let limits = PaceLimits {
        rate: 1.0,
        burst: 1.0,
        window: 200,
    };
    let world = with_due(Pace {
        limits,
        ..Pace::default()
    })
    .await;
    world.end(world.claim_near(THERE, 5).await.jobs, OK).await;
    assert_eq!(world.events_of(EventKind::MessageDelivered).await.len(), 1);
    set_back(&world).await;
    assert_eq!(
        world.claim_near(THERE, 5).await.jobs.len(),
        0,
        "a second has not passed"
    );
    world.clock.advance(SECOND);
    assert_eq!(world.claim_near(THERE, 5).await.jobs.len(), 1);
}

#[tokio::test]
async fn a_breaker_is_open_no_longer_than_it_may_be_from_the_new_time_on() {
    let breaker = Breaker {
        failures: 1,
        open: 60 * SECOND,
        open_max: DAY,
        ..Pace::default().breaker
    };
    let world = with_due(Pace {
        breaker,
        ..Pace::default()
    })
    .await;
    world
        .end(world.claim_near(THERE, 1).await.jobs, MAINTENANCE)
        .await;
    assert_eq!(world.events_of(EventKind::BreakerOpened).await.len(), 1);
    set_back(&world).await;
    assert_eq!(world.claim_near(THERE, 5).await.jobs.len(), 0, "it is open");
    world.clock.advance(60 * SECOND);
    assert_eq!(world.claim_near(THERE, 5).await.jobs.len(), 1, "a probe");
}

#[tokio::test]
async fn the_jobs_of_a_worker_that_is_gone_come_back_when_its_lease_has_lasted_its_length() {
    let world = with_due(Pace::default()).await;
    assert_eq!(world.claim_near(THERE, 5).await.jobs.len(), 5);
    set_back(&world).await;
    world.clock.advance(LEASE - MS);
    assert_eq!(
        world.claim_near(THERE, 5).await.jobs.len(),
        0,
        "it lasts its length"
    );
    world.clock.advance(MS);
    assert_eq!(world.claim_near(THERE, 5).await.jobs.len(), 5);
}

#[tokio::test]
async fn a_lease_that_is_held_is_brought_back_by_its_next_extension() {
    let world = with_due(Pace::default()).await;
    let leased = world.claim_near(THERE, 1).await.jobs.remove(0);
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
async fn a_destination_with_a_backlog_is_visited_at_once() {
    let world = with_due(Pace::default()).await;
    // Where work is left, the agenda has the instant of the claim.
    world.end(world.claim_near(THERE, 2).await.jobs, OK).await;
    set_back(&world).await;
    assert_eq!(world.claim_near(THERE, 5).await.jobs.len(), 3);
}

fn now_at(world: &World, mut item: Value) -> Value {
    item["occurred_at"] = world.now().to_string().into();
    item
}

#[tokio::test]
async fn what_happens_now_is_not_stale_because_of_what_was_noted_in_the_future() {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    assert_eq!(world.work().await, 1);
    set_back(&world).await;
    let answer = world.take_in(now_at(&world, bounce(JO, "m2", FULL))).await;
    assert!(
        matches!(answer, Answer::Scheduled { .. }),
        "a bounce after a delivery: {answer:?}"
    );

    let complaint = |world: &World| {
        now_at(
            world,
            json!({"type": "complaint", "recipient": "sue@example.com"}),
        )
    };
    world.tell(complaint(&world)).await;
    world.reinstate("sue@example.com").await;
    set_back(&world).await;
    let answer = world.tell(complaint(&world)).await;
    assert!(
        format!("{answer:?}").starts_with("Suppressed"),
        "a complaint after a reinstatement: {answer:?}"
    );
}

#[tokio::test]
async fn the_heartbeat_of_a_worker_that_is_gone_is_forgotten() {
    let world = World::new().await;
    let (gone, alive) = (WorkerId::unique(), WorkerId::unique());
    let in_an_hour = (std::time::SystemTime::now() + HOUR)
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let key = format!("{}:workers", world.prefix);
    let words = [
        "ZADD",
        &key,
        &in_an_hour.as_millis().to_string(),
        &gone.to_string(),
    ];
    redis::ask(&redis::url(), &words).await;
    assert_eq!(world.store.beat(alive, 15 * SECOND).await.unwrap(), [alive]);
}
