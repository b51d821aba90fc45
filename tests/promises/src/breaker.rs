//! A destination that is down gets no attempts, and its jobs wait without spending any. A single
//! probe for the whole fleet then finds out whether the destination is back. After that, its
//! waiting jobs are sent slowly at first.

use std::time::Duration;

use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::event::EventKind;
use domain::outcome::{Fault, FaultKind, Outcome};
use domain::pace::{Breaker, Pace};
use futures::future::join_all;
use harness::bounce::{FULL, MAINTENANCE, OK, UNKNOWN, bounce};
use harness::world::{LEASE, MS, Settings, World};
use serde_json::json;
use store::claim::LeasedJob;
use store::destination_controls::BreakerState;
use store::settle::Settled;

const DESTINATION: &str = "one.example";

const SECOND: Duration = Duration::from_secs(1);

/// How long breakers are open the first time, and at most. The first time is shorter than a lease,
/// and the longest time is longer than a lease.
const OPEN: Duration = Duration::from_secs(20);
const OPEN_MAX: Duration = Duration::from_secs(150);

#[tokio::test]
async fn consecutive_failures_of_a_host_open_its_breaker() {
    let world = World::with(settings()).await;
    world.post_due_jobs(DESTINATION, 30).await;
    fail(&world, 4).await;
    world
        .attempt_and_settle(world.claim_near(DESTINATION, 1).await.jobs, OK)
        .await;
    fail(&world, 4).await;
    assert_eq!(
        state(&world).await,
        BreakerState::Closed,
        "a success in between shows that the host is up"
    );
    fail(&world, 1).await;
    let until = world.now().plus(OPEN);
    assert_eq!(state(&world).await, BreakerState::Open { until, times: 1 });
    let opened = world.events_of(EventKind::BreakerOpened).await;
    assert_eq!(opened.len(), 1);
    assert_eq!((&*opened[0].job, opened[0].until), ("", Some(until.ms())));
    assert_eq!(opened[0].destination, Some(Destination::named(DESTINATION)));
}

#[tokio::test]
async fn a_high_share_of_failures_within_the_sliding_window_opens_a_breaker() {
    let half = Breaker {
        failures: 1_000,
        share: 0.5,
        samples: 10,
        over: 60 * SECOND,
        ..settings().pace.breaker
    };
    let settings = || Settings {
        pace: Pace {
            breaker: half,
            ..settings().pace
        },
        ..settings()
    };
    // Failures and successes take turns, so that no two failures are consecutive. The first failure
    // counts at once.
    for (pause, opens) in [(SECOND, true), (12 * SECOND, false)] {
        let world = World::with(settings()).await;
        world.post_due_jobs(DESTINATION, 50).await;
        for n in 0..20 {
            assert_eq!(
                state(&world).await,
                BreakerState::Closed,
                "{n} attempts, {pause:?} apart"
            );
            let reply = if n % 2 == 0 { MAINTENANCE } else { OK };
            world
                .attempt_and_settle(world.claim_near(DESTINATION, 1).await.jobs, reply)
                .await;
            world.clock.advance(pause);
            if opens && n == 9 {
                break;
            }
        }
        assert_eq!(
            state(&world).await != BreakerState::Closed,
            opens,
            "{pause:?} apart"
        );
    }
    let world = World::with(settings()).await;
    world.post_due_jobs(DESTINATION, 50).await;
    for n in 0..40 {
        let reply = if n % 3 == 0 { MAINTENANCE } else { OK };
        world
            .attempt_and_settle(world.claim_near(DESTINATION, 1).await.jobs, reply)
            .await;
    }
    assert_eq!(
        state(&world).await,
        BreakerState::Closed,
        "a third is less than half"
    );
}

#[tokio::test]
async fn deliveries_before_the_first_failure_count_towards_the_share() {
    let half = Breaker {
        failures: 1_000,
        share: 0.5,
        samples: 10,
        over: 60 * SECOND,
        ..settings().pace.breaker
    };
    let world = World::with(Settings {
        pace: Pace {
            breaker: half,
            ..settings().pace
        },
        ..settings()
    })
    .await;
    world.post_due_jobs(DESTINATION, 70).await;
    for _ in 0..30 {
        world
            .attempt_and_settle(world.claim_near(DESTINATION, 1).await.jobs, OK)
            .await;
    }
    for n in 0..20 {
        let reply = if n % 2 == 0 { MAINTENANCE } else { OK };
        world
            .attempt_and_settle(world.claim_near(DESTINATION, 1).await.jobs, reply)
            .await;
    }
    assert_eq!(
        state(&world).await,
        BreakerState::Closed,
        "ten of fifty are less than half"
    );
    world.clock.advance(180 * SECOND);
    for n in 0..10 {
        let reply = if n % 2 == 0 { MAINTENANCE } else { OK };
        world
            .attempt_and_settle(world.claim_near(DESTINATION, 1).await.jobs, reply)
            .await;
    }
    assert_ne!(
        state(&world).await,
        BreakerState::Closed,
        "old results have left the window"
    );
}

#[tokio::test]
async fn jobs_wait_without_spending_an_attempt_while_the_breaker_is_open() {
    let world = World::with(settings()).await;
    let until = open(&world, 10).await;
    let waiting = format!("user9@{DESTINATION}");
    let (before, events) = (world.job(&waiting).await, world.events().await.len());
    for n in 0..4 {
        let claimed = world.claim_near(DESTINATION, 100).await;
        assert_eq!(
            (claimed.jobs.len(), claimed.next_visit),
            (0, Some(until)),
            "after {n} seconds"
        );
        world.clock.advance(SECOND);
    }
    world.clock.set(Timestamp::from_ms(until.ms() - 1));
    assert_eq!(world.claim_near(DESTINATION, 100).await.jobs.len(), 0);
    let after = world.job(&waiting).await;
    assert_eq!((after.job, after.due), (before.job, before.due));
    assert_eq!(world.events().await.len(), events);
}

#[tokio::test]
async fn a_single_probe_for_the_whole_fleet_finds_out_whether_a_destination_is_back() {
    let world = World::with(settings()).await;
    world.clock.set(open(&world, 60).await);
    let claims = (0..10).map(|_| world.claim_near(DESTINATION, 5));
    let mut probes: Vec<LeasedJob> = join_all(claims)
        .await
        .into_iter()
        .flat_map(|claimed| claimed.jobs)
        .collect();
    assert_eq!(probes.len(), 1, "one of all due jobs");
    world.clock.advance(LEASE / 2);
    assert_eq!(
        world.claim_near(DESTINATION, 5).await.jobs.len(),
        0,
        "no second probe, however long the first takes"
    );
    world.extend(&probes[0].lease).await;
    world.clock.advance(LEASE - MS);
    assert_eq!(
        world.claim_near(DESTINATION, 5).await.jobs.len(),
        0,
        "no second probe, however long the first takes"
    );

    world.attempt_and_settle(probes.pop(), OK).await;
    assert_eq!(state(&world).await, BreakerState::Closed);
    let closed = world.events_of(EventKind::BreakerClosed).await;
    assert_eq!(closed.len(), 1);
    assert_eq!(
        (&*closed[0].job, &closed[0].destination),
        ("", &Some(Destination::named(DESTINATION)))
    );
    // A slow start: the window begins at its minimum, and each full window of successes adds one.
    for expected in [1, 2, 3, 4] {
        let mut settlements = Vec::new();
        for leased in world.claim_near(DESTINATION, 100).await.jobs {
            settlements.push(world.attempt(leased).await);
        }
        assert_eq!(settlements.len(), expected);
        world.settle_all(&settlements).await;
    }
}

#[tokio::test]
async fn each_failed_probe_doubles_the_open_time_up_to_a_limit_and_a_success_resets_it() {
    let world = World::with(settings()).await;
    let mut until = open(&world, 60).await;
    for (times, seconds) in [(2, 40), (3, 80), (4, 150), (5, 150)] {
        world.clock.set(until);
        let probe = world.claim_near(DESTINATION, 100).await.jobs;
        assert_eq!(probe.len(), 1);
        world.attempt_and_settle(probe, MAINTENANCE).await;
        until = world.now().plus(seconds * SECOND);
        assert_eq!(state(&world).await, BreakerState::Open { until, times });
        assert!(world.claim_near(DESTINATION, 100).await.next_visit <= Some(until));
    }
    world.clock.set(until);
    world
        .attempt_and_settle(world.claim_near(DESTINATION, 100).await.jobs, OK)
        .await;
    fail(&world, 5).await;
    let until = world.now().plus(OPEN);
    assert_eq!(state(&world).await, BreakerState::Open { until, times: 1 });
}

#[tokio::test]
async fn after_a_failed_probe_the_shard_is_visited_as_soon_as_the_next_probe_is_allowed() {
    let world = World::with(settings()).await;
    world.clock.set(open(&world, 60).await);
    let probe = world.claim_near(DESTINATION, 100).await.jobs;
    // Leases are long, and the breaker is open for a shorter time.
    world.clock.advance(MS);
    world.attempt_and_settle(probe, MAINTENANCE).await;
    let until = world.now().plus(2 * OPEN);
    let next_visit = world.claim_near(DESTINATION, 100).await.next_visit;
    assert_eq!(
        next_visit,
        Some(until),
        "not only at the end of the probe's lease"
    );
}

#[tokio::test]
async fn a_refused_mailbox_shows_that_its_host_is_back() {
    let world = World::with(settings()).await;
    world.clock.set(open(&world, 10).await);
    world
        .attempt_and_settle(world.claim_near(DESTINATION, 100).await.jobs, UNKNOWN)
        .await;
    assert_eq!(state(&world).await, BreakerState::Closed);
}

#[tokio::test]
async fn a_probe_without_a_result_does_not_block_its_destination() {
    for way in [
        "lapsed",
        "crashed",
        "released",
        "a problem on our side",
        "retired",
    ] {
        let world = World::with(settings()).await;
        world.clock.set(open(&world, 10).await);
        // The same claim leases a job of another destination too. Its lease is extended below, so
        // that only the probe can lapse.
        let other = neighbour(&world);
        world
            .post_bounce(bounce(&format!("jo@{other}"), "m1", MAINTENANCE))
            .await;
        let due = world.job(&format!("jo@{other}")).await.due.unwrap();
        world.clock.set(due);
        let mut jobs = world.claim_near(DESTINATION, 100).await.jobs;
        assert_eq!(jobs.len(), 2, "the probe, and a job of a neighbour");
        let place = jobs
            .iter()
            .position(|leased| leased.lease.destination.as_str() == DESTINATION)
            .unwrap();
        let probe = jobs.swap_remove(place);
        let neighbouring = &jobs[0].lease;
        match way {
            "lapsed" => world.clock.advance(LEASE),
            "crashed" => assert!(world.crash(&probe.lease).await),
            "released" => assert!(world.release(&probe.lease).await),
            "retired" => {
                world
                    .post_bounce(bounce(probe.lease.recipient(), "m2", UNKNOWN))
                    .await;
            }
            _ => {
                world.mail.set_script(|_| unreachable_by_our_fault());
                let settlement = world.attempt(probe).await;
                assert_eq!(world.settle(&settlement).await, Settled::Done);
            }
        }
        let probes = async || {
            let claimed = world.claim_near(DESTINATION, 100).await;
            claimed
                .jobs
                .iter()
                .filter(|leased| leased.lease.destination.as_str() == DESTINATION)
                .count()
        };
        assert_eq!(probes().await, 0, "{way}");
        let until = world.now().plus(OPEN);
        assert_eq!(
            state(&world).await,
            BreakerState::Open { until, times: 1 },
            "{way}: the probe does not count"
        );
        world.extend(neighbouring).await;
        world.clock.set(until);
        assert_eq!(probes().await, 1, "{way}: another probe is sent");
    }
}

#[tokio::test]
async fn a_probe_that_does_not_fit_into_one_claim_is_in_the_next_claim() {
    let world = World::with(settings()).await;
    let until = open(&world, 6).await;
    let other = neighbour(&world);
    assert_eq!(
        world.claim_near(DESTINATION, 100).await.next_visit,
        Some(until)
    );
    // One answer contains at most 8 MiB: nine of these records fit, ten do not.
    for address in (0..9)
        .map(|n| format!("user{n}@{other}"))
        .chain((0..6).map(|n| format!("user{n}@{DESTINATION}")))
    {
        for n in 0..15 {
            let mut large = bounce(&address, &format!("large{n}"), FULL);
            large["content"] = json!({"inline": "x".repeat(60_000)});
            large["occurred_at"] = "2026-11-01T00:00:00Z".into();
            world.post_bounce(large).await;
        }
    }
    world.clock.set(until);
    let claimed = world.claim_near(DESTINATION, 100).await;
    assert!(
        claimed
            .jobs
            .iter()
            .all(|leased| leased.lease.destination.as_str() == other),
        "these jobs have waited longer"
    );
    assert_eq!(claimed.jobs.len(), 9);
    assert!(
        claimed.next_visit <= Some(world.now()),
        "the probe is claimed next"
    );
    let probe = world.claim_near(DESTINATION, 100).await.jobs;
    assert_eq!(probe.len(), 1);
    assert_eq!(probe[0].lease.destination.as_str(), DESTINATION);
}

#[tokio::test]
async fn a_problem_on_our_side_never_opens_a_breaker() {
    let world = World::with(settings()).await;
    world.post_due_jobs(DESTINATION, 30).await;
    world.mail.set_script(|_| unreachable_by_our_fault());
    for leased in world.claim_near(DESTINATION, 100).await.jobs {
        let settlement = world.attempt(leased).await;
        assert_eq!(world.settle(&settlement).await, Settled::Done);
    }
    assert_eq!(state(&world).await, BreakerState::Closed);
    assert_eq!(world.events_of(EventKind::BreakerOpened).await, []);
}

#[tokio::test]
async fn an_open_breaker_does_not_affect_other_destinations_of_its_shard() {
    let world = World::with(settings()).await;
    let other = neighbour(&world);
    open(&world, 10).await;
    let mut long_ago = bounce(&format!("jo@{other}"), "m1", FULL);
    long_ago["occurred_at"] = "2026-11-01T00:00:00Z".into();
    world.post_bounce(long_ago).await;
    let jobs = world.claim_near(DESTINATION, 100).await.jobs;
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0].lease.destination.as_str(), other);
}

#[tokio::test]
async fn the_state_of_a_breaker_survives_a_restart() {
    let mut world = World::with(settings()).await;
    let until = open(&world, 10).await;
    world.restart().await;
    assert_eq!(state(&world).await, BreakerState::Open { until, times: 1 });
    assert_eq!(world.claim_near(DESTINATION, 100).await.jobs.len(), 0);
    world.clock.set(until);
    assert_eq!(world.claim_near(DESTINATION, 100).await.jobs.len(), 1);
    world.restart().await;
    assert_eq!(
        world.claim_near(DESTINATION, 100).await.jobs.len(),
        0,
        "the probe is still in flight"
    );
}

/// Five consecutive failures open a breaker.
fn settings() -> Settings {
    let pace = Settings::default().pace;
    let breaker = Breaker {
        failures: 5,
        samples: 1_000,
        open: OPEN,
        open_max: OPEN_MAX,
        ..pace.breaker
    };
    Settings {
        pace: Pace { breaker, ..pace },
        ..Settings::default()
    }
}

/// Lets `count` attempts fail, one after the other.
async fn fail(world: &World, count: usize) {
    for _ in 0..count {
        let jobs = world.claim_near(DESTINATION, 1).await.jobs;
        assert_eq!(jobs.len(), 1);
        world.attempt_and_settle(jobs, MAINTENANCE).await;
    }
}

/// Makes `count` jobs due and lets the first five fail, which opens the breaker. Returns the time
/// at which the first probe is allowed.
async fn open(world: &World, count: usize) -> Timestamp {
    world.post_due_jobs(DESTINATION, count).await;
    fail(world, 5).await;
    world.now().plus(OPEN)
}

async fn state(world: &World) -> BreakerState {
    world.pace(DESTINATION).await.breaker
}

/// Another destination of the same shard.
fn neighbour(world: &World) -> String {
    let shard = |name: &str| Destination::named(name).shard(world.store.shards());
    let mut names = (0..).map(|n| format!("other{n}.example"));
    names
        .find(|name| shard(name) == shard(DESTINATION))
        .expect("one of infinitely many names is in the shard")
}

fn unreachable_by_our_fault() -> Outcome {
    Outcome::Unreachable(Fault::ours(
        FaultKind::Local,
        "the relay is away".to_owned(),
    ))
}
