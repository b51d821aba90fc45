//! What a relay took is not delivered yet: its message waits for a bounce, which is the failure of
//! that attempt, or for silence, which closes it as delivered.

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
use store::lease::GivenBack;
use store::schedule::Answer;
use store::settle::Settled;

const JO: &str = "jo@example.com";
const OVER_QUOTA: &str = "452 4.2.2 Over quota";

fn accepted() -> Outcome {
    Outcome::Accepted(Reply::parse("250 2.0.0 queued"))
}

/// A world whose mail leaves by a relay that takes everything, and may report for a day.
async fn with_relay() -> World {
    let world = World::with(Settings {
        confirm: DAY,
        ..Settings::default()
    })
    .await;
    world.mail.answers(|_| accepted());
    world
}

/// The same, where a message has been taken by the relay.
async fn with_accepted(messages: &[&str]) -> World {
    let world = with_relay().await;
    for message in messages {
        world.take_in(bounce(JO, message, FULL)).await;
    }
    world.clock.set(world.job(JO).await.due.unwrap());
    assert_eq!(world.work().await, 1);
    world
}

/// A report that a message did not get through, some time after the relay took it.
fn report(message: &str, reply: &str, world: &World) -> Value {
    report_to(JO, message, reply, world)
}

fn report_to(address: &str, message: &str, reply: &str, world: &World) -> Value {
    let mut report = bounce(address, message, reply);
    report["occurred_at"] = json!(world.now());
    report
}

async fn to_due(world: &World) {
    world.clock.set(world.job(JO).await.due.unwrap());
}

fn assert_within(wait: Duration, delay: Duration) {
    assert!(
        wait >= delay && wait <= delay.mul_f64(1.1),
        "{wait:?} is {delay:?}"
    );
}

#[tokio::test]
async fn silence_delivers() {
    let world = with_accepted(&["m1"]).await;
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
        "no attempt was made to hear it"
    );
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(world.mail.messages(), ["m1"], "it was sent once");
}

#[tokio::test]
async fn a_bounce_in_that_time_is_the_failure_of_that_attempt() {
    let world = with_accepted(&["m1"]).await;
    world.clock.advance(HOUR);
    let Answer::Deferred { due: Some(due) } = world.take_in(report("m1", FULL, &world)).await
    else {
        panic!("it is the failure of the first attempt")
    };
    assert_within(due.since(world.now()), 2 * DAY);
    let job = world.job(JO).await;
    assert_eq!((job.due, job.job.head.attempt), (Some(due), 1));
    assert_eq!(job.job.head.history.last().unwrap().attempt, 1);
    assert_eq!(
        world.take_in(report("m1", FULL, &world)).await,
        Answer::Duplicate,
        "it takes effect once"
    );

    world.clock.set(due);
    assert_eq!(world.work().await, 1);
    assert_eq!(
        world.mail.tried().last().unwrap().attempt,
        2,
        "the counter goes on"
    );
    assert_eq!(world.final_events().await, []);
}

#[tokio::test]
async fn the_last_bounce_retires_the_address() {
    let world = with_accepted(&["m1"]).await;
    for delay in [2 * DAY, 3 * DAY, 7 * DAY] {
        let Answer::Deferred { due: Some(due) } = world.take_in(report("m1", FULL, &world)).await
        else {
            panic!("there are tries left")
        };
        assert_within(due.since(world.now()), delay);
        world.clock.set(due);
        world.work().await;
    }
    let Answer::Retired(record) = world.take_in(report("m1", FULL, &world)).await else {
        panic!("that was the last")
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
async fn a_permanent_bounce_retires_at_once_and_a_message_s_own_failure_drops_it_alone() {
    let world = with_accepted(&["m1", "m2"]).await;
    assert_eq!(
        world.take_in(report("m1", TOO_BIG, &world)).await,
        Answer::Dropped
    );
    assert_eq!(world.waiting(JO).await, ["m2"]);
    assert_eq!(world.work().await, 1, "the next is the probe, at once");
    let Answer::Retired(record) = world.take_in(report("m2", UNKNOWN, &world)).await else {
        panic!("it is dead")
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
async fn the_bounce_that_was_there_before_may_come_again() {
    let world = with_relay().await;
    let mut first = bounce(JO, "m1", FULL);
    first["occurred_at"] = json!(world.now());
    world.take_in_and_wait(first.clone()).await;
    world.work().await;
    assert_eq!(world.take_in(first).await, Answer::Duplicate);
    assert_eq!(
        world.job(JO).await.due,
        Some(world.now().plus(DAY)),
        "it still waits for silence"
    );
}

#[tokio::test]
async fn the_probe_waits_alone_and_its_silence_releases_the_rest() {
    let world = with_accepted(&["m1", "m2", "m3"]).await;
    assert_eq!(world.mail.messages(), ["m1"]);
    assert!(matches!(
        world.take_in(bounce(JO, "m4", FULL)).await,
        Answer::Joined { due: Some(_) }
    ));
    to_due(&world).await;
    world.work().await;
    assert_eq!(world.mail.messages(), ["m1", "m2", "m3", "m4"]);
    assert_eq!(world.final_events().await.len(), 1);
    assert_eq!(
        world.job(JO).await.job.head.attempt,
        0,
        "a bounce now is a new outage"
    );

    let Answer::Deferred { due: Some(due) } =
        world.take_in(report("m3", MAINTENANCE, &world)).await
    else {
        panic!("it had been accepted")
    };
    assert_within(due.since(world.now()), HOUR);
    world.clock.set(due);
    world.mail.says(OK);
    world.work().await;
    assert_eq!(
        world.waiting(JO).await,
        ["m2", "m4"],
        "the others still wait for silence"
    );
    to_due(&world).await;
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

/// The clock of a machine that is a day ahead of Redis's, or behind it.
#[derive(Debug)]
struct Apart {
    redis: Arc<ManualClock>,
    is_ahead: bool,
}

impl Clock for Apart {
    fn now(&self) -> Timestamp {
        let (redis, day) = (self.redis.now().ms(), DAY.as_millis() as i64);
        Timestamp::from_ms(if self.is_ahead {
            redis + day
        } else {
            redis - day
        })
    }

    fn passed_in(&self) -> Option<Timestamp> {
        self.redis.passed_in()
    }

    fn running(&self) -> Duration {
        self.redis.running()
    }

    fn real(&self, span: Duration) -> Duration {
        self.redis.real(span)
    }
}

#[tokio::test]
async fn silence_is_heard_in_time_though_the_scheduler_s_clock_is_not_that_of_redis() {
    for is_ahead in [false, true] {
        let mut world = with_accepted(&["m1", "m2", "m3"]).await;
        to_due(&world).await;
        assert_eq!(
            world.work().await,
            1,
            "m1 got through, and the rest is tried"
        );
        let silence = world.job(JO).await.due;
        let redis = world.clock.clone();
        world.take_in_by(Arc::new(Apart { redis, is_ahead })).await;
        assert_eq!(
            world.take_in(report("m2", TOO_BIG, &world)).await,
            Answer::Dropped
        );
        assert_eq!(world.waiting(JO).await, ["m3"]);
        assert_eq!(world.job(JO).await.due, silence, "ahead: {is_ahead}");
    }
}

#[tokio::test]
async fn a_bounce_for_a_job_that_a_worker_has_is_not_lost() {
    let world = with_accepted(&["m1"]).await;
    to_due(&world).await;
    let leased = world.claim_one().await;
    // The worker has just found that nothing came: it counts as delivered.
    assert_eq!(
        world.take_in(report("m1", FULL, &world)).await,
        Answer::Stale
    );
    world
        .store
        .release(&[leased.lease], GivenBack::Untried)
        .await
        .unwrap();
    // The worker was stopped before it could say so: nothing is final, and the bounce counts.
    assert!(matches!(
        world.take_in(report("m1", FULL, &world)).await,
        Answer::Deferred { .. }
    ));
}

#[tokio::test]
async fn a_route_that_delivers_by_itself_waits_for_nothing() {
    let world = World::new().await;
    world.mail.answers(|_| accepted());
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    world.work().await;
    assert_eq!(
        world.final_events().await,
        [(EventKind::MessageDelivered, "m1".to_owned(), None)]
    );
}

#[tokio::test]
async fn a_bounce_by_the_host_s_trouble_narrows_its_window_and_the_second_opens_its_breaker() {
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
    world.mail.answers(|_| accepted());
    let addresses = ["jo@example.com", "sam@example.com", "ada@example.com"];
    for address in addresses {
        world
            .take_in_and_wait(bounce(address, "m1", MAINTENANCE))
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
            matches!(world.take_in(report).await, Answer::Deferred { .. }),
            "{address}"
        );
        let pace = world.pace("example.com").await;
        assert_eq!(
            narrowed(&pace),
            failures > 0,
            "a mailbox over quota says that the host works: {pace:?}"
        );
        let opened = world.events_of(EventKind::BreakerOpened).await.len();
        assert_eq!(opened, usize::from(failures == 2), "{address}");
    }
}

#[tokio::test]
async fn late_bounces_of_what_was_accepted_before_the_window_was_narrowed_do_not_narrow_it_again() {
    let world = World::with(Settings {
        confirm: DAY,
        ..Settings::default()
    })
    .await;
    world.mail.answers(|_| accepted());
    let early = ["jo@example.com", "sam@example.com", "ada@example.com"];
    for address in early {
        world
            .take_in_and_wait(bounce(address, "m1", MAINTENANCE))
            .await;
        world.work().await;
    }
    let refused = async |address: &str| {
        let mut report = report("m1", MAINTENANCE, &world);
        report["recipient"] = json!(address);
        assert!(
            matches!(world.take_in(report).await, Answer::Deferred { .. }),
            "{address}"
        );
        world.pace("example.com").await.window.unwrap()
    };
    let narrowed = refused(early[0]).await;
    assert!(narrowed < f64::from(Settings::default().pace.window));
    for (n, address) in early[1..].iter().enumerate() {
        // Others go on meanwhile.
        world
            .take_in_and_wait(bounce(&format!("later{n}@example.com"), "m1", MAINTENANCE))
            .await;
        world.work().await;
        let window = refused(address).await;
        assert!(
            (window - narrowed).abs() < 1e-9,
            "{address}: {window} after {narrowed}"
        );
    }
    assert!(
        refused("later0@example.com").await < narrowed,
        "what was accepted since then is news"
    );
}

/// Addresses of several destinations, on several shards.
const ADDRESSES: [&str; 4] = [
    JO,
    "sam@example.com",
    "jo@second.example",
    "jo@third.example",
];

/// Whatever comes in whatever order, every message has one final event, and nothing waits for ever.
#[tokio::test]
async fn every_message_ends_once_at_random() {
    for seed in 0..6 {
        play(seed, Deployment::default()).await;
    }
}

#[tokio::test]
async fn every_message_ends_once_at_random_on_a_cluster() {
    for seed in 6..9 {
        play(seed, Deployment::Cluster).await;
    }
}

async fn play(seed: u64, redis: Deployment) {
    let world = World::with(Settings {
        confirm: DAY,
        redis,
        ..Settings::default()
    })
    .await;
    let mut random = Random::from_seed(seed);
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    for step in 0..160 {
        let outcomes = [(6, ""), (2, OK), (2, FULL), (1, TOO_BIG), (1, UNKNOWN)];
        let reply = random.weighted(&outcomes);
        world.mail.answers(move |_| {
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
                    .take_in(report_to(address, &message, FULL, &world))
                    .await;
                if matches!(answer, Answer::Scheduled { .. } | Answer::Joined { .. }) {
                    taken.insert(message, 0);
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
                        .take_in(report_to(address, &message.id, reply, &world))
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
    world.mail.says(OK);
    for address in ADDRESSES {
        while let Some(job) = world.job_if_any(address).await {
            world.clock.set(job.due.unwrap().max(world.now()));
            world.work().await;
        }
    }
    for (_, message, _) in world.final_events().await {
        *taken
            .get_mut(&message)
            .unwrap_or_else(|| panic!("seed {seed}: {message} was never taken")) += 1;
    }
    assert!(taken.len() > 10, "seed {seed}: {} messages", taken.len());
    let wrong: Vec<_> = taken.iter().filter(|(_, finals)| **finals != 1).collect();
    assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
}
