//! A destination that has not answered lately may hang, so it gets only a few attempts at once. All
//! such destinations together get no more attempts than a worker has places for them. Destinations
//! without a place wait for their turn, and delay no other destination.

use std::slice;
use std::time::Duration;

use domain::destination::Destination;
use domain::event::EventKind;
use domain::pace::{Breaker, Pace};
use harness::bounce::{FULL, MAINTENANCE, OK, bounce};
use harness::world::{DAY, LEASE, MS, SECOND, Settings, World};
use store::claim::{ClaimBounds, Claimed, LeasedJob};
use store::destination_controls::BreakerState;
use store::lease::ReleaseReason;

const DESTINATION: &str = "one.example";

#[tokio::test]
async fn a_new_destination_gets_few_attempts_at_once_and_each_answer_adds_one() {
    let world = world().await;
    world.post_due_jobs(DESTINATION, 60).await;
    let mut jobs = world.claim_near(DESTINATION, 100).await.jobs;
    assert_eq!(jobs.len(), 2);
    assert_eq!(
        world.claim_near(DESTINATION, 100).await.jobs.len(),
        0,
        "two attempts are in flight"
    );
    for under_way in 3..=20 {
        world.attempt_and_settle(jobs.pop(), OK).await;
        jobs.extend(world.claim_near(DESTINATION, 100).await.jobs);
        assert_eq!(jobs.len(), under_way);
    }
    world.attempt_and_settle(jobs.pop(), OK).await;
    jobs.extend(world.claim_near(DESTINATION, 100).await.jobs);
    assert_eq!(
        jobs.len(),
        20,
        "beyond 20 attempts, a wider window needs a full window of answers"
    );
}

#[tokio::test]
async fn a_destination_that_has_not_answered_for_long_gets_few_attempts_until_it_does() {
    let world = world().await;
    world.post_due_jobs(DESTINATION, 200).await;
    while world.pace(DESTINATION).await.window < Some(10.0) {
        world
            .attempt_and_settle(world.claim_near(DESTINATION, 100).await.jobs, OK)
            .await;
    }
    world.clock.advance(Pace::default().answered_within);
    let jobs = world.claim_near(DESTINATION, 100).await.jobs;
    assert_eq!(jobs.len(), 2);
    world.attempt_and_settle(jobs, OK).await;
    assert!(
        world.claim_near(DESTINATION, 100).await.jobs.len() >= 10,
        "its window is unchanged"
    );
}

#[tokio::test]
async fn any_answer_of_a_host_counts_and_a_failure_of_the_host_does_not() {
    for (reply, counts) in [
        (OK, true),
        ("450 please try later", true),
        ("421 4.7.0 not you", true),
        (MAINTENANCE, false),
    ] {
        let world = world().await;
        world.post_due_jobs(DESTINATION, 3).await;
        world
            .attempt_and_settle(world.claim_near(DESTINATION, 1).await.jobs, reply)
            .await;
        assert_eq!(
            world.pace(DESTINATION).await.answered.is_some(),
            counts,
            "{reply}"
        );
    }
}

#[tokio::test]
async fn unproven_destinations_get_no_more_attempts_than_places_and_take_turns() {
    let world = world().await;
    let names = neighbours(&world, 6);
    let [proven, unproven @ ..] = names.as_slice() else {
        panic!("there are six")
    };
    world
        .post_bounce(bounce(&format!("first@{proven}"), "m1", FULL))
        .await;
    world.clock.advance(2 * DAY);
    world
        .attempt_and_settle(world.claim_near(proven, 9).await.jobs, OK)
        .await;
    for name in unproven.iter().rev().chain([proven]) {
        assert_eq!(claim(&world, 0).await.jobs.len(), 0, "no place is left");
        let mut posted = bounce(&format!("jo@{name}"), "m1", FULL);
        posted["occurred_at"] = "2026-11-01T00:00:00Z".into();
        world.post_bounce(posted).await;
        world.clock.advance(MS);
    }
    let claimed = claim(&world, 2).await;
    assert_eq!(
        claimed
            .jobs
            .iter()
            .filter(|leased| !leased.is_unproven)
            .count(),
        1,
        "a proven destination needs no place"
    );
    let (mut reached, mut under_way) = (destinations(&claimed.jobs), claimed.jobs);
    assert_eq!((reached.len(), claimed.unproven_waiting), (3, 3));
    assert_eq!(claim(&world, 0).await.jobs.len(), 0);
    for left in [2, 1, 0] {
        world.clock.advance(MS);
        let claimed = claim(&world, 1).await;
        assert_eq!((claimed.jobs.len(), claimed.unproven_waiting), (1, left));
        reached.extend(destinations(&claimed.jobs));
        under_way.extend(claimed.jobs);
    }
    let wanted: Vec<&String> = unproven.iter().rev().collect();
    let turns: Vec<&String> = reached.iter().filter(|name| *name != proven).collect();
    assert_eq!(turns, wanted, "the longest waiting first");
    world.attempt_and_settle(under_way, OK).await;
    assert_eq!(claim(&world, 9).await.unproven_waiting, 0);
}

#[tokio::test]
async fn unproven_destinations_that_wait_share_the_free_places_equally() {
    let world = world().await;
    let names = neighbours(&world, 3);
    for name in &names {
        world.post_due_jobs(name, 4).await;
    }
    assert_eq!(claim(&world, 0).await.unproven_waiting, 3);
    let reached = destinations(&claim(&world, 7).await.jobs);
    let counts: Vec<usize> = names
        .iter()
        .map(|name| reached.iter().filter(|one| *one == name).count())
        .collect();
    assert_eq!(counts, [2, 2, 2]);
}

#[tokio::test]
async fn a_silent_destination_gets_no_more_attempts_until_it_answers() {
    let world = world().await;
    world.post_due_jobs(DESTINATION, 100).await;
    world
        .attempt_and_settle(world.claim_near(DESTINATION, 1).await.jobs, OK)
        .await;
    let mut jobs = world.claim_near(DESTINATION, 2).await.jobs;
    world.clock.advance(10 * SECOND);
    assert!(
        !note_silence(&world, 20 * SECOND).await,
        "another attempt was answered meanwhile"
    );
    assert!(note_silence(&world, 3 * SECOND).await);
    assert_eq!(world.claim_near(DESTINATION, 100).await.jobs.len(), 0);
    world.attempt_and_settle(jobs.pop(), OK).await;
    assert_eq!(world.pace(DESTINATION).await.silent_until, None);
    assert!(world.claim_near(DESTINATION, 100).await.jobs.len() > 1);
}

#[tokio::test]
async fn the_silence_of_a_destination_ends_if_it_is_not_reported_again() {
    let world = world().await;
    world.post_due_jobs(DESTINATION, 100).await;
    world
        .attempt_and_settle(world.claim_near(DESTINATION, 1).await.jobs, OK)
        .await;
    let jobs = world.claim_near(DESTINATION, 1).await.jobs;
    assert_eq!(jobs.len(), 1);
    world.clock.advance(10 * SECOND);
    assert!(note_silence(&world, 3 * SECOND).await);
    world.clock.advance(5 * SECOND);
    assert!(world.claim_near(DESTINATION, 100).await.jobs.len() > 1);
}

#[tokio::test]
async fn an_attempt_given_up_for_its_silence_opens_the_breaker_and_is_not_counted() {
    let world = world().await;
    world.post_due_jobs(DESTINATION, 3).await;
    let leased = world.claim_near(DESTINATION, 1).await.jobs.remove(0);
    let before = world.job(leased.lease.recipient()).await.job;
    world.clock.advance(5 * SECOND);
    assert!(give_up(&world, &leased, 5 * SECOND).await);
    assert!(
        !give_up(&world, &leased, 5 * SECOND).await,
        "the job was already given back"
    );
    let until = world.now().plus(Pace::default().breaker.open);
    assert_eq!(
        world.pace(DESTINATION).await.breaker,
        BreakerState::Open { until, times: 1 }
    );
    assert_eq!(world.pace(DESTINATION).await.in_flight, 0);
    let after = world.job(leased.lease.recipient()).await;
    assert_eq!((after.job, after.due), (before, Some(leased.lease.due)));
    assert_eq!(world.events_of(EventKind::AttemptDeferred).await, []);
    // A probe that hangs too counts as failed.
    world.clock.set(until);
    let probe = world.claim_near(DESTINATION, 9).await.jobs.remove(0);
    assert!(probe.is_unproven);
    assert!(give_up(&world, &probe, 5 * SECOND).await);
    let until = world.now().plus(2 * Pace::default().breaker.open);
    assert_eq!(
        world.pace(DESTINATION).await.breaker,
        BreakerState::Open { until, times: 2 }
    );
}

#[tokio::test]
async fn an_attempt_given_up_while_others_were_answered_only_narrows_the_window() {
    let breaker = Breaker {
        failures: 1,
        ..Pace::default().breaker
    };
    let pace = Pace {
        breaker,
        window_new: 10,
        window: 10,
        ..Pace::default()
    };
    let world = World::with(Settings {
        pace,
        ..Settings::default()
    })
    .await;
    world.post_due_jobs(DESTINATION, 30).await;
    let mut jobs = world.claim_near(DESTINATION, 10).await.jobs;
    world.clock.advance(5 * SECOND);
    world.attempt_and_settle(jobs.pop(), OK).await;
    assert!(give_up(&world, &jobs[0], 5 * SECOND).await);
    let pace = world.pace(DESTINATION).await;
    assert_eq!(pace.breaker, BreakerState::Closed);
    assert!(pace.window < Some(7.0), "{:?}", pace.window);
}

async fn world() -> World {
    World::with(Settings {
        pace: Pace::default(),
        ..Settings::default()
    })
    .await
}

/// Claims in the shard of [`DESTINATION`], with `unproven` places for attempts that may hang.
async fn claim(world: &World, unproven: usize) -> Claimed {
    let bounds = ClaimBounds {
        batch: 100,
        share: 100,
        lease: LEASE,
        unproven,
    };
    world
        .store
        .claim(shard(world, DESTINATION), bounds)
        .await
        .unwrap()
}

async fn note_silence(world: &World, waited: Duration) -> bool {
    let waiting = [(Destination::named(DESTINATION), waited)];
    world
        .store
        .note_silence(shard(world, DESTINATION), &waiting)
        .await
        .unwrap()[0]
}

async fn give_up(world: &World, leased: &LeasedJob, waited: Duration) -> bool {
    let why = ReleaseReason::Unanswered(waited);
    world
        .store
        .release(slice::from_ref(&leased.lease), why)
        .await
        .unwrap()
        == 1
}

fn shard(world: &World, name: &str) -> u16 {
    Destination::named(name).shard(world.store.shards())
}

/// This many other destinations in the shard of [`DESTINATION`].
fn neighbours(world: &World, count: usize) -> Vec<String> {
    let names = (0..).map(|n| format!("other{n}.example"));
    names
        .filter(|name| shard(world, name) == shard(world, DESTINATION))
        .take(count)
        .collect()
}

fn destinations(jobs: &[LeasedJob]) -> Vec<String> {
    jobs.iter()
        .map(|leased| leased.lease.destination.as_str().to_owned())
        .collect()
}
