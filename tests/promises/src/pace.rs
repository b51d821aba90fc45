//! A destination never gets more attempts at once or per second than its pace allows, counted over
//! the whole fleet. It gets them as soon as they are allowed.

use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::outcome::{Fault, FaultKind, Outcome};
use domain::pace::{Breaker, DestinationRule, Pace, PaceLimits};
use futures::future::join_all;
use harness::bounce::{FULL, MAINTENANCE, OK, TOO_BIG, UNKNOWN, bounce};
use harness::world::{DAY, LEASE, MS, SECOND, Settings, World};
use store::claim::ClaimBounds;
use store::schedule::Answer;
use store::settle::Settled;

const DESTINATION: &str = "one.example";

/// The reply of a provider that complains about our reputation.
const ROUTE: &str = "421 4.7.28 Our system has detected an unusual rate of mail from your address";

#[tokio::test]
async fn a_window_applies_to_the_whole_fleet_and_each_attempt_that_ends_allows_the_next() {
    let world = World::with(window(5, 5)).await;
    world.post_due_jobs(DESTINATION, 40).await;
    let claims = (0..20).map(|_| world.claim_near(DESTINATION, 3));
    let mut jobs: Vec<_> = join_all(claims)
        .await
        .into_iter()
        .flat_map(|claimed| claimed.jobs)
        .collect();
    assert_eq!(jobs.len(), 5, "five of forty due jobs");
    assert_eq!(world.pace(DESTINATION).await.in_flight, 5);
    for _ in 0..35 {
        world.attempt_and_settle(jobs.pop(), OK).await;
        let claimed = world.claim_near(DESTINATION, 3).await;
        assert_eq!(
            claimed.jobs.len(),
            1,
            "one attempt ended, and one is allowed"
        );
        jobs.extend(claimed.jobs);
    }
    world.attempt_and_settle(jobs, OK).await;
    assert_eq!(world.pace(DESTINATION).await.in_flight, 0);
}

#[tokio::test]
async fn every_way_in_which_an_attempt_can_end_makes_room_for_the_next() {
    for way in ["settled", "released", "crashed", "lapsed", "retired"] {
        let world = World::with(window(1, 1)).await;
        world.post_due_jobs(DESTINATION, 3).await;
        let leased = world.claim_near(DESTINATION, 9).await.jobs.remove(0);
        assert_eq!(
            world.claim_near(DESTINATION, 9).await.jobs.len(),
            0,
            "{way}: the window is full"
        );
        let lease = leased.lease.clone();
        let settlement = world.attempt(leased).await;
        match way {
            "settled" => assert_eq!(world.settle(&settlement).await, Settled::Done),
            "released" => assert!(world.release(&lease).await),
            "crashed" => assert!(world.crash(&lease).await),
            "lapsed" => world.clock.advance(LEASE),
            _ => {
                world
                    .post_bounce(bounce(lease.recipient(), "m2", UNKNOWN))
                    .await;
            }
        }
        assert_eq!(
            world.claim_near(DESTINATION, 9).await.jobs.len(),
            1,
            "{way}: there is room for one"
        );
        if way != "settled" {
            let wanted = if way == "retired" {
                Settled::Void
            } else {
                Settled::Stale
            };
            assert_eq!(world.settle(&settlement).await, wanted, "{way}");
        }
        assert_eq!(
            world.pace(DESTINATION).await.in_flight,
            1,
            "{way}: the end of an attempt counts once"
        );
        assert_eq!(
            world.claim_near(DESTINATION, 9).await.jobs.len(),
            0,
            "{way}: the window is full again"
        );
    }
}

#[tokio::test]
async fn a_window_widens_with_successes_while_it_is_full_and_never_beyond_its_limit() {
    let world = World::with(window(4, 6)).await;
    world.post_due_jobs(DESTINATION, 200).await;
    world
        .attempt_and_settle(world.claim_near(DESTINATION, 1).await.jobs, OK)
        .await;
    assert_eq!(
        world.pace(DESTINATION).await.window,
        None,
        "one attempt at a time is no evidence about four"
    );

    let mut widest = 4;
    while widest < 6 {
        let jobs = world.claim_near(DESTINATION, 100).await.jobs;
        assert!(
            (widest..=widest + 1).contains(&jobs.len()),
            "{} after {widest}",
            jobs.len()
        );
        widest = jobs.len();
        world.attempt_and_settle(jobs, OK).await;
    }
    for _ in 0..5 {
        let jobs = world.claim_near(DESTINATION, 100).await.jobs;
        assert_eq!(jobs.len(), 6, "six is the limit of the window");
        world.attempt_and_settle(jobs, OK).await;
    }
}

#[tokio::test]
async fn failures_of_host_or_route_narrow_a_window_once_for_all_attempts_in_flight() {
    for reply in [MAINTENANCE, ROUTE] {
        let world = World::with(window(10, 20)).await;
        world.post_due_jobs(DESTINATION, 40).await;
        for left in [7, 4, 2, 1, 1] {
            let jobs = world.claim_near(DESTINATION, 100).await.jobs;
            world.attempt_and_settle(jobs, reply).await;
            let window = world.pace(DESTINATION).await.window.unwrap();
            assert_eq!(window.floor() as i32, left, "{reply}");
        }
    }
}

#[tokio::test]
async fn a_failure_that_is_no_fault_of_the_destination_does_not_narrow_its_window() {
    for reply in ["450 4.2.2 Mailbox full", UNKNOWN, TOO_BIG, "ours"] {
        let world = World::with(window(10, 10)).await;
        world.post_due_jobs(DESTINATION, 30).await;
        let jobs = world.claim_near(DESTINATION, 100).await.jobs;
        if reply == "ours" {
            world.mail.set_script(|_| unreachable_by_our_fault());
        } else {
            world.mail.reply_with(reply);
        }
        for leased in jobs {
            let settlement = world.attempt(leased).await;
            assert_eq!(world.settle(&settlement).await, Settled::Done);
        }
        assert_eq!(
            world.claim_near(DESTINATION, 100).await.jobs.len(),
            10,
            "{reply}"
        );
    }
}

#[tokio::test]
async fn a_rate_limit_applies_over_time_to_the_whole_fleet() {
    let (rate, burst) = (2.0, 3.0);
    let world = World::with(limited(PaceLimits {
        rate,
        burst,
        window: 500,
    }))
    .await;
    world.post_due_jobs(DESTINATION, 100).await;
    let mut claimed = 0;
    for tenths in 0..=200 {
        let claims = (0..2).map(|_| world.claim_near(DESTINATION, 100));
        claimed += join_all(claims)
            .await
            .iter()
            .map(|claimed| claimed.jobs.len())
            .sum::<usize>();
        let allowed = (burst + rate * f64::from(tenths) / 10.0 + 1e-9) as usize;
        assert_eq!(claimed, allowed, "after {tenths} tenths of a second");
        world.clock.advance(100 * MS);
    }
}

#[tokio::test]
async fn no_more_than_the_burst_can_be_saved_up() {
    let world = World::with(limited(PaceLimits {
        rate: 5.0,
        burst: 3.0,
        window: 500,
    }))
    .await;
    world.post_due_jobs(DESTINATION, 20).await;
    for _ in 0..2 {
        assert_eq!(world.claim_near(DESTINATION, 100).await.jobs.len(), 3);
        world.clock.advance(DAY / 24);
    }
}

#[tokio::test]
async fn the_next_visit_is_planned_for_the_instant_of_the_next_token() {
    for rate in [0.03, 0.3, 1.0, 2.0, 7.0, 333.0, 999.0] {
        let world = World::with(limited(PaceLimits {
            rate,
            burst: 2.0,
            window: 500,
        }))
        .await;
        world.post_due_jobs(DESTINATION, 30).await;
        let mut next_visit = world.claim_near(DESTINATION, 100).await.next_visit.unwrap();
        for _ in 0..10 {
            let just_before = Timestamp::from_ms(next_visit.ms() - 1);
            if just_before > world.now() {
                world.clock.set(just_before);
                assert_eq!(
                    world.claim_near(DESTINATION, 100).await.jobs.len(),
                    0,
                    "at {rate}/s"
                );
            }
            world.clock.set(next_visit);
            let claimed = world.claim_near(DESTINATION, 100).await;
            assert_eq!(claimed.jobs.len(), 1, "at {rate}/s");
            next_visit = claimed.next_visit.unwrap();
        }
    }
}

#[tokio::test]
async fn a_limit_in_the_configuration_applies_from_the_first_job_on() {
    let rule = |name: &str, window| DestinationRule {
        name: name.to_owned(),
        limits: PaceLimits {
            rate: 0.0,
            burst: 1.0,
            window,
        },
    };
    let rules = vec![rule("one.example", 1), rule("*.example", 2)];
    let world = World::with(Settings {
        rules,
        ..window(10, 10)
    })
    .await;
    for (destination, expected) in [("one.example", 1), ("two.example", 2), ("other.org", 10)] {
        world.post_due_jobs(destination, 15).await;
        let jobs = world.claim_near(destination, 100).await.jobs;
        assert_eq!(
            jobs.iter()
                .filter(|leased| leased.lease.destination.as_str() == destination)
                .count(),
            expected
        );
    }
}

#[tokio::test]
async fn a_limit_set_by_an_operator_applies_at_once_and_until_it_is_removed() {
    let world = World::with(window(3, 3)).await;
    let destination = Destination::named(DESTINATION);
    world.post_due_jobs(DESTINATION, 30).await;
    let jobs = world.claim_near(DESTINATION, 100).await.jobs;
    assert_eq!(jobs.len(), 3);

    let slow = Some(PaceLimits {
        rate: 0.01,
        burst: 1.0,
        window: 3,
    });
    world
        .store
        .override_limits(&destination, slow)
        .await
        .unwrap();
    assert_eq!(world.pace(DESTINATION).await.override_limits, slow);
    world.attempt_and_settle(jobs, OK).await;
    assert_eq!(
        world.claim_near(DESTINATION, 100).await.jobs.len(),
        1,
        "there is room for three, and one token"
    );
    assert!(
        world.claim_near(DESTINATION, 100).await.next_visit > Some(world.now()),
        "the next visit waits for the next token"
    );
    world
        .store
        .override_limits(&destination, None)
        .await
        .unwrap();
    assert_eq!(world.pace(DESTINATION).await.override_limits, None);
    assert_eq!(
        world.claim_near(DESTINATION, 100).await.jobs.len(),
        2,
        "three attempts may be in flight again"
    );
}

#[tokio::test]
async fn the_pace_of_a_destination_survives_a_restart() {
    let mut world = World::with(limited(PaceLimits {
        rate: 1.0,
        burst: 2.0,
        window: 3,
    }))
    .await;
    world.post_due_jobs(DESTINATION, 30).await;
    assert_eq!(world.claim_near(DESTINATION, 100).await.jobs.len(), 2);
    let before = world.pace(DESTINATION).await;

    world.restart().await;
    assert_eq!(world.pace(DESTINATION).await, before);
    assert_eq!(
        world.claim_near(DESTINATION, 100).await.jobs.len(),
        0,
        "no token is left"
    );
    world.clock.advance(LEASE / 6);
    assert_eq!(
        world.claim_near(DESTINATION, 100).await.jobs.len(),
        1,
        "one more attempt is allowed"
    );
}

#[tokio::test]
async fn a_backlog_at_one_destination_delays_no_other() {
    let world = World::with(window(100_000, 100_000)).await;
    let big = Destination::named("big.example").shard(world.store.shards());
    let small: Vec<String> = (0..)
        .map(|n| format!("small{n}.example"))
        .filter(|name| Destination::named(name.as_str()).shard(world.store.shards()) == big)
        .take(200)
        .collect();
    world.post_due_jobs("big.example", 10_000).await;
    for name in &small {
        world
            .post_bounce(bounce(&format!("jo@{name}"), "m1", FULL))
            .await;
    }
    world.clock.advance(2 * DAY);
    // The share of a destination is not limited here. Only the backlog's place in the queue keeps
    // it from filling every claim.
    let bounds = ClaimBounds {
        batch: 50,
        share: 50,
        lease: LEASE,
        unproven: usize::MAX,
    };
    let (mut claims, mut reached) = (0, 0);
    while reached < small.len() {
        let jobs = world.store.claim(big, bounds).await.unwrap().jobs;
        reached += jobs
            .iter()
            .filter(|leased| leased.lease.destination.as_str() != "big.example")
            .count();
        claims += 1;
        world.clock.advance(MS);
        // Each claim takes one job of the backlog, and then up to fifty of the others.
        assert!(
            claims <= 6,
            "{reached} of 200 were reached in {claims} claims"
        );
    }
}

#[tokio::test]
async fn all_due_jobs_of_a_destination_are_claimed_at_once_and_no_job_before_its_time() {
    let world = World::with(window(100, 100)).await;
    let mut due = Vec::new();
    for n in 0..60 {
        let Answer::Scheduled { due: at } = world
            .post_bounce(bounce(&format!("user{n}@{DESTINATION}"), "m1", FULL))
            .await
        else {
            panic!("each address is new")
        };
        due.push((at, format!("user{n}@{DESTINATION}")));
        world.clock.advance(60 * SECOND);
    }
    due.sort();
    // The first claim has more jobs than Redis returns exact due times for. The others have fewer,
    // or none.
    for (up_to, taken) in [(39, 40), (44, 5), (44, 0), (59, 15)] {
        world.clock.set(due[up_to].0);
        let claimed = world.claim_near(DESTINATION, 100).await;
        assert_eq!(claimed.jobs.len(), taken, "{} were due by then", up_to + 1);
        assert_eq!(
            claimed.next_visit,
            due.get(up_to + 1).map(|(at, _)| *at),
            "the next visit is when the next job is due"
        );
        for (n, leased) in claimed.jobs.iter().enumerate() {
            let (exact, _) = due
                .iter()
                .find(|(_, recipient)| recipient == leased.lease.recipient())
                .unwrap();
            assert!(
                leased.lease.due <= *exact && *exact <= claimed.now,
                "{:?} was due at {exact:?}",
                leased.lease
            );
            assert!(
                n >= 16 || leased.lease.due == *exact,
                "the first jobs have their exact due time"
            );
        }
        world.attempt_and_settle(claimed.jobs, OK).await;
    }
}

/// A fleet whose windows start at `window` and end at `most`, with breakers that never open.
fn window(window: u32, most: u32) -> Settings {
    let pace = Settings::default().pace;
    let limits = PaceLimits {
        window: most,
        ..pace.limits
    };
    let breaker = Breaker {
        failures: 1_000_000,
        samples: 1_000_000,
        ..pace.breaker
    };
    Settings {
        pace: Pace {
            window_new: window,
            window,
            limits,
            breaker,
            ..pace
        },
        ..Settings::default()
    }
}

fn limited(limits: PaceLimits) -> Settings {
    let settings = window(limits.window, limits.window);
    Settings {
        pace: Pace {
            limits,
            ..settings.pace
        },
        ..settings
    }
}

fn unreachable_by_our_fault() -> Outcome {
    Outcome::Unreachable(Fault::ours(
        FaultKind::Local,
        "the relay cannot be reached".to_owned(),
    ))
}
