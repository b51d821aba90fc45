//! A message that a relay accepted does not count as delivered yet. A bounce within the configured
//! time counts as the failure of that attempt. If no bounce comes, the message counts as delivered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, ManualClock, Timestamp};
use domain::event::{DropReason, EventKind};
use domain::outcome::Outcome;
use domain::pace::{Breaker, Pace};
use domain::reply::Reply;
use domain::standing::Standing;
use harness::bounce::{FULL, MAINTENANCE, OK, TOO_BIG, UNKNOWN, bounce};
use harness::random::Random;
use harness::world::{DAY, Deployment, HOUR, MS, Settings, World};
use serde_json::{Value, json};
use store::destination_controls::PaceReport;
use store::lease::ReleaseReason;
use store::schedule::Answer;
use store::settle::Settled;

const JO: &str = "jo@example.com";
const OVER_QUOTA: &str = "452 4.2.2 Over quota";

fn accepted() -> Outcome {
    Outcome::Accepted(Reply::parse("250 2.0.0 queued"))
}

/// A world whose mail leaves by a relay. The relay accepts every message, and may report a bounce
/// for a day.
async fn world_with_relay() -> World {
    let world = World::with(Settings {
        confirm: DAY,
        ..Settings::default()
    })
    .await;
    world.mail.set_script(|_| accepted());
    world
}

/// A world with that relay, after the relay has accepted the first of these messages.
async fn world_with_accepted(messages: &[&str]) -> World {
    let world = world_with_relay().await;
    for message in messages {
        world.post_bounce(bounce(JO, message, FULL)).await;
    }
    world.clock.set(world.job(JO).await.due.unwrap());
    assert_eq!(world.work().await, 1);
    world
}

/// A report that a message was not delivered, some time after the relay accepted it.
fn report(message: &str, reply: &str, world: &World) -> Value {
    report_to(JO, message, reply, world)
}

fn report_to(address: &str, message: &str, reply: &str, world: &World) -> Value {
    let mut report = bounce(address, message, reply);
    report["occurred_at"] = json!(world.now());
    report
}

async fn advance_to_due(world: &World) {
    world.clock.set(world.job(JO).await.due.unwrap());
}

fn assert_within(wait: Duration, delay: Duration) {
    assert!(
        wait >= delay && wait <= delay.mul_f64(1.1),
        "{wait:?} is not {delay:?} plus at most a tenth"
    );
}

#[tokio::test]
async fn a_message_counts_as_delivered_if_no_bounce_comes_in_time() {
    let world = world_with_accepted(&["m1"]).await;
    let job = world.job(JO).await;
    assert_eq!(job.due, Some(world.now().plus(DAY)));
    assert_eq!(job.job.head.attempt, 1);
    let until = world.now().plus(DAY).ms();
    assert_eq!(
        world.events_of(EventKind::MessageAccepted).await[0].due,
        Some(until)
    );
    assert_eq!(world.final_events().await, []);

    world.clock.advance(DAY - MS);
    assert_eq!(world.work().await, 0);
    world.clock.advance(MS);
    assert_eq!(world.work().await, 1);
    let silence = Some("silence".to_owned());
    assert_eq!(
        world.final_events().await,
        [(EventKind::MessageDelivered, "m1".to_owned(), silence)]
    );
    let closed = world.events_of(EventKind::JobClosed).await;
    assert_eq!(
        (closed.len(), closed[0].attempt),
        (1, Some(1)),
        "this took no further attempt"
    );
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(world.mail.messages(), ["m1"], "the message was sent once");
}

#[tokio::test]
async fn a_bounce_in_time_counts_as_the_failure_of_that_attempt() {
    let world = world_with_accepted(&["m1"]).await;
    world.clock.advance(HOUR);
    let Answer::Deferred { due: Some(due) } = world.post_bounce(report("m1", FULL, &world)).await
    else {
        panic!("the bounce is the failure of the first attempt")
    };
    assert_within(due.since(world.now()), 2 * DAY);
    let job = world.job(JO).await;
    assert_eq!((job.due, job.job.head.attempt), (Some(due), 1));
    assert_eq!(job.job.head.history.last().unwrap().attempt, 1);
    assert_eq!(
        world.post_bounce(report("m1", FULL, &world)).await,
        Answer::Duplicate,
        "the bounce takes effect once"
    );

    world.clock.set(due);
    assert_eq!(world.work().await, 1);
    assert_eq!(
        world.mail.tried().last().unwrap().attempt,
        2,
        "the attempt counter continues"
    );
    assert_eq!(world.final_events().await, []);
}

#[tokio::test]
async fn a_bounce_of_the_last_attempt_retires_the_address() {
    let world = world_with_accepted(&["m1"]).await;
    for delay in [2 * DAY, 3 * DAY, 7 * DAY] {
        let Answer::Deferred { due: Some(due) } =
            world.post_bounce(report("m1", FULL, &world)).await
        else {
            panic!("attempts are left")
        };
        assert_within(due.since(world.now()), delay);
        world.clock.set(due);
        world.work().await;
    }
    let Answer::Retired(record) = world.post_bounce(report("m1", FULL, &world)).await else {
        panic!("that was the last attempt")
    };
    assert_eq!(record.standing, Standing::Unavailable);
    assert_eq!(world.standing(JO).await, Standing::Unavailable);
    assert!(world.job_if_any(JO).await.is_none());
    let retired = Some(DropReason::Retired.as_str().to_owned());
    assert_eq!(
        world.final_events().await,
        [(EventKind::MessageDropped, "m1".to_owned(), retired)]
    );
    assert_eq!(world.events_of(EventKind::AddressRetired).await.len(), 1);
}

#[tokio::test]
async fn a_permanent_bounce_retires_the_address_and_a_failure_of_one_message_drops_only_it() {
    let world = world_with_accepted(&["m1", "m2"]).await;
    assert_eq!(
        world.post_bounce(report("m1", TOO_BIG, &world)).await,
        Answer::Dropped
    );
    assert_eq!(world.waiting(JO).await, ["m2"]);
    assert_eq!(
        world.work().await,
        1,
        "the next message is the probe, at once"
    );
    let Answer::Retired(record) = world.post_bounce(report("m2", UNKNOWN, &world)).await else {
        panic!("the address is dead")
    };
    assert_eq!(record.standing, Standing::Inactive);
    let finals: Vec<String> = world
        .final_events()
        .await
        .into_iter()
        .map(|(_, message, _)| message)
        .collect();
    assert_eq!(finals, ["m1", "m2"]);
}

#[tokio::test]
async fn a_repeated_report_of_an_earlier_bounce_changes_nothing() {
    let world = world_with_relay().await;
    let mut first = bounce(JO, "m1", FULL);
    first["occurred_at"] = json!(world.now());
    world.post_and_wait_until_due(first.clone()).await;
    world.work().await;
    assert_eq!(world.post_bounce(first).await, Answer::Duplicate);
    assert_eq!(
        world.job(JO).await.due,
        Some(world.now().plus(DAY)),
        "the message still waits for a bounce"
    );
}

#[tokio::test]
async fn only_the_probe_waits_for_a_bounce_and_the_other_messages_follow_if_none_comes() {
    let world = world_with_accepted(&["m1", "m2", "m3"]).await;
    assert_eq!(world.mail.messages(), ["m1"]);
    assert!(matches!(
        world.post_bounce(bounce(JO, "m4", FULL)).await,
        Answer::Joined { due: Some(_) }
    ));
    advance_to_due(&world).await;
    world.work().await;
    assert_eq!(world.mail.messages(), ["m1", "m2", "m3", "m4"]);
    assert_eq!(world.final_events().await.len(), 1);
    assert_eq!(
        world.job(JO).await.job.head.attempt,
        0,
        "a bounce from now on is a new outage"
    );

    let Answer::Deferred { due: Some(due) } =
        world.post_bounce(report("m3", MAINTENANCE, &world)).await
    else {
        panic!("the message had been accepted")
    };
    assert_within(due.since(world.now()), HOUR);
    world.clock.set(due);
    world.mail.reply_with(OK);
    world.work().await;
    assert_eq!(
        world.waiting(JO).await,
        ["m2", "m4"],
        "the others still wait for a bounce"
    );
    advance_to_due(&world).await;
    world.work().await;
    let mut finals: Vec<String> = world
        .final_events()
        .await
        .into_iter()
        .map(|(_, message, _)| message)
        .collect();
    finals.sort_unstable();
    assert_eq!(finals, ["m1", "m2", "m3", "m4"]);
    assert!(world.job_if_any(JO).await.is_none());
}

/// The clock of a machine that is a day ahead of Redis's clock, or behind it.
#[derive(Debug)]
struct SkewedClock {
    redis: Arc<ManualClock>,
    is_ahead: bool,
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        let (redis, day) = (self.redis.now().ms(), DAY.as_millis() as i64);
        Timestamp::from_ms(if self.is_ahead {
            redis + day
        } else {
            redis - day
        })
    }

    fn instant_for_scripts(&self) -> Option<Timestamp> {
        self.redis.instant_for_scripts()
    }

    fn monotonic(&self) -> Duration {
        self.redis.monotonic()
    }

    fn real_duration(&self, span: Duration) -> Duration {
        self.redis.real_duration(span)
    }
}

#[tokio::test]
async fn the_wait_for_a_bounce_ends_in_time_even_if_the_clocks_of_scheduler_and_redis_differ() {
    for is_ahead in [false, true] {
        let mut world = world_with_accepted(&["m1", "m2", "m3"]).await;
        advance_to_due(&world).await;
        assert_eq!(
            world.work().await,
            1,
            "m1 counts as delivered, and the rest is sent"
        );
        let silence = world.job(JO).await.due;
        let redis = world.clock.clone();
        world
            .set_intake_clock(Arc::new(SkewedClock { redis, is_ahead }))
            .await;
        assert_eq!(
            world.post_bounce(report("m2", TOO_BIG, &world)).await,
            Answer::Dropped
        );
        assert_eq!(world.waiting(JO).await, ["m3"]);
        assert_eq!(world.job(JO).await.due, silence, "ahead: {is_ahead}");
    }
}

#[tokio::test]
async fn a_bounce_for_a_job_that_a_worker_has_leased_is_not_lost() {
    let world = world_with_accepted(&["m1"]).await;
    advance_to_due(&world).await;
    let leased = world.claim_one().await;
    // The worker has just found that no bounce came: the message counts as delivered.
    assert_eq!(
        world.post_bounce(report("m1", FULL, &world)).await,
        Answer::Stale
    );
    world
        .store
        .release(&[leased.lease], ReleaseReason::Untried)
        .await
        .unwrap();
    // The worker stopped before it could record that. Nothing is final, and the bounce counts.
    assert!(matches!(
        world.post_bounce(report("m1", FULL, &world)).await,
        Answer::Deferred { .. }
    ));
}

#[tokio::test]
async fn a_route_without_confirmation_counts_an_accepted_message_as_delivered_at_once() {
    let world = World::new().await;
    world.mail.set_script(|_| accepted());
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.work().await;
    assert_eq!(
        world.final_events().await,
        [(EventKind::MessageDelivered, "m1".to_owned(), None)]
    );
}

#[tokio::test]
async fn a_bounce_caused_by_a_host_narrows_its_window_and_a_second_one_opens_its_breaker() {
    let pace = Pace {
        breaker: Breaker {
            failures: 2,
            ..Settings::default().pace.breaker
        },
        ..Settings::default().pace
    };
    let world = World::with(Settings {
        confirm: DAY,
        pace,
        ..Settings::default()
    })
    .await;
    world.mail.set_script(|_| accepted());
    let addresses = ["jo@example.com", "sam@example.com", "ada@example.com"];
    for address in addresses {
        world
            .post_and_wait_until_due(bounce(address, "m1", MAINTENANCE))
            .await;
        world.work().await;
    }
    let open = Settings::default().pace.window;
    let narrowed = |pace: &PaceReport| pace.window.is_some_and(|window| window < f64::from(open));
    assert!(!narrowed(&world.pace("example.com").await));
    let reports = [OVER_QUOTA, MAINTENANCE, FULL];
    for ((address, reply), failures) in addresses.into_iter().zip(reports).zip(0..) {
        let mut report = report("m1", reply, &world);
        report["recipient"] = json!(address);
        assert!(
            matches!(world.post_bounce(report).await, Answer::Deferred { .. }),
            "{address}"
        );
        let pace = world.pace("example.com").await;
        assert_eq!(
            narrowed(&pace),
            failures > 0,
            "a mailbox over quota shows that the host works: {pace:?}"
        );
        let opened = world.events_of(EventKind::BreakerOpened).await.len();
        assert_eq!(opened, usize::from(failures == 2), "{address}");
    }
}

#[tokio::test]
async fn late_bounces_of_messages_accepted_before_a_window_was_narrowed_do_not_narrow_it_again() {
    let world = World::with(Settings {
        confirm: DAY,
        ..Settings::default()
    })
    .await;
    world.mail.set_script(|_| accepted());
    let early = ["jo@example.com", "sam@example.com", "ada@example.com"];
    for address in early {
        world
            .post_and_wait_until_due(bounce(address, "m1", MAINTENANCE))
            .await;
        world.work().await;
    }
    let window_after_report = async |address: &str| {
        let mut report = report("m1", MAINTENANCE, &world);
        report["recipient"] = json!(address);
        assert!(
            matches!(world.post_bounce(report).await, Answer::Deferred { .. }),
            "{address}"
        );
        world.pace("example.com").await.window.unwrap()
    };
    let narrowed = window_after_report(early[0]).await;
    assert!(narrowed < f64::from(Settings::default().pace.window));
    for (n, address) in early[1..].iter().enumerate() {
        // Other attempts continue meanwhile.
        world
            .post_and_wait_until_due(bounce(&format!("later{n}@example.com"), "m1", MAINTENANCE))
            .await;
        world.work().await;
        let window = window_after_report(address).await;
        assert!(
            (window - narrowed).abs() < 1e-9,
            "{address}: {window} after {narrowed}"
        );
    }
    assert!(
        window_after_report("later0@example.com").await < narrowed,
        "a message accepted since then counts"
    );
}

/// Addresses of several destinations, on several shards.
const ADDRESSES: [&str; 4] = [
    JO,
    "sam@example.com",
    "jo@second.example",
    "jo@third.example",
];

#[tokio::test]
async fn with_random_operations_every_message_has_exactly_one_final_event() {
    for seed in 0..6 {
        run_at_random(seed, Deployment::default()).await;
    }
}

#[tokio::test]
async fn with_random_operations_in_a_cluster_every_message_has_exactly_one_final_event() {
    for seed in 6..9 {
        run_at_random(seed, Deployment::Cluster).await;
    }
}

/// Runs random operations, and then all jobs to their end. Every message must have one final event,
/// and no job may wait for ever.
async fn run_at_random(seed: u64, redis: Deployment) {
    let world = World::with(Settings {
        confirm: DAY,
        redis,
        ..Settings::default()
    })
    .await;
    let mut random = Random::from_seed(seed);
    let mut finals: BTreeMap<String, usize> = BTreeMap::new();
    for step in 0..160 {
        let outcomes = [(6, ""), (2, OK), (2, FULL), (1, TOO_BIG), (1, UNKNOWN)];
        let reply = random.weighted(&outcomes);
        world.mail.set_script(move |_| {
            if reply.is_empty() {
                accepted()
            } else {
                harness::mail::outcome(reply)
            }
        });
        let address = ADDRESSES[random.below(ADDRESSES.len())];
        match random.below(6) {
            0 => {
                let message = format!("m{seed}-{step}");
                let answer = world
                    .post_bounce(report_to(address, &message, FULL, &world))
                    .await;
                if matches!(answer, Answer::Scheduled { .. } | Answer::Joined { .. }) {
                    finals.insert(message, 0);
                }
            }
            1 => {
                let job = world.job_if_any(address).await;
                let found = job.and_then(|job| {
                    job.job
                        .messages
                        .into_iter()
                        .find(|one| one.accepted.is_some())
                });
                if let Some(message) = found {
                    let reply =
                        random.weighted(&[(4, FULL), (2, MAINTENANCE), (1, TOO_BIG), (1, UNKNOWN)]);
                    let answer = world
                        .post_bounce(report_to(address, &message.id, reply, &world))
                        .await;
                    assert!(
                        !matches!(answer, Answer::Scheduled { .. } | Answer::Joined { .. }),
                        "{answer:?}"
                    );
                }
            }
            2 => world
                .clock
                .advance(HOUR * u32::try_from(random.below(200)).unwrap()),
            3 => {
                let Some(due) = world.job_if_any(address).await.and_then(|job| job.due) else {
                    continue;
                };
                world.clock.set(due.max(world.now()));
                world.work().await;
            }
            4 => {
                world.reinstate(address).await;
            }
            _ => {
                for leased in world.claim().await {
                    let settlement = world.attempt(leased).await;
                    assert_eq!(world.settle(&settlement).await, Settled::Done);
                }
            }
        }
    }
    world.mail.reply_with(OK);
    for address in ADDRESSES {
        while let Some(job) = world.job_if_any(address).await {
            world.clock.set(job.due.unwrap().max(world.now()));
            world.work().await;
        }
    }
    for (_, message, _) in world.final_events().await {
        *finals
            .get_mut(&message)
            .unwrap_or_else(|| panic!("seed {seed}: {message} was never accepted")) += 1;
    }
    assert!(finals.len() > 10, "seed {seed}: {} messages", finals.len());
    let wrong: Vec<_> = finals.iter().filter(|(_, finals)| **finals != 1).collect();
    assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
}
