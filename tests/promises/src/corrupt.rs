//! An unreadable value in Redis affects only its own destination or job. The call that finds the
//! value corrects it and records that in the journal. The rest of the shard continues.

use domain::destination::Destination;
use domain::event::EventKind;
use domain::pace::Pace;
use harness::bounce::{FULL, OK, bounce};
use harness::redis;
use harness::world::{LEASE, Settings, World, id};
use store::claim::LeasedJob;
use store::keys::Keys;
use store::schedule::Answer;
use store::settle::Settled;

const DESTINATION: &str = "one.example";

/// Values that no field of a pace may have.
const UNREADABLE: [&str; 6] = ["x", "nan", "-7", "1e400", "1 2", "open x y"];

/// The fields that a claim or a settlement reads.
const FIELDS: [&str; 12] = [
    "in_flight",
    "window",
    "tokens",
    "breaker",
    "results",
    "narrowed",
    "delivered",
    "answered",
    "silent",
    "limits",
    "override",
    "hold",
];

#[tokio::test]
async fn an_unreadable_pace_field_does_not_stop_claims_and_settlements_in_its_shard() {
    for field in FIELDS {
        let world = world().await;
        let other = neighbour(&world);
        for (n, value) in UNREADABLE.into_iter().enumerate() {
            let [here, nearby] = [DESTINATION, &other].map(|domain| format!("user{n}@{domain}"));
            post_due(&world, &here).await;
            post_due(&world, &nearby).await;
            by_hand(
                &world,
                &[
                    "HSET",
                    &key(&world, &format!("pace:{DESTINATION}")),
                    field,
                    value,
                ],
            )
            .await;
            let mut jobs = world.claim_near(DESTINATION, 10).await.jobs;
            if field == "hold" {
                assert_eq!(
                    recipients(&jobs),
                    [nearby.as_str()],
                    "an operator's hold lasts until it is released"
                );
                assert!(
                    world
                        .store
                        .unhold(&Destination::named(DESTINATION))
                        .await
                        .unwrap()
                );
                jobs.extend(world.claim_near(DESTINATION, 10).await.jobs);
            }
            assert_eq!(jobs.len(), 2, "{field} is {value}");
            by_hand(
                &world,
                &[
                    "HSET",
                    &key(&world, &format!("pace:{DESTINATION}")),
                    field,
                    value,
                ],
            )
            .await;
            settle_together(&world, jobs, &[Settled::Done, Settled::Done]).await;
            if field == "hold" {
                world
                    .store
                    .unhold(&Destination::named(DESTINATION))
                    .await
                    .unwrap();
            }
            assert_eq!(
                world.pace(DESTINATION).await.hold,
                None,
                "{field} is {value}"
            );
        }
        let reset = world.events_of(EventKind::ValueReset).await;
        assert!(reset.len() >= UNREADABLE.len(), "{field}: {reset:?}");
        let reason = format!("pace {field}");
        assert!(
            reset
                .iter()
                .all(|event| event.reason.as_deref() == Some(&reason)),
            "{field}: {reset:?}"
        );
        assert!(
            reset
                .iter()
                .all(|event| event.destination == Some(Destination::named(DESTINATION))),
            "{field}"
        );
    }
}

#[tokio::test]
async fn a_key_of_the_wrong_type_affects_only_its_destination() {
    for name in ["pace", "due"] {
        let world = world().await;
        let other = neighbour(&world);
        let [here, nearby] = [DESTINATION, &other].map(|domain| format!("jo@{domain}"));
        post_due(&world, &here).await;
        post_due(&world, &nearby).await;
        let there = key(&world, &format!("{name}:{DESTINATION}"));
        by_hand(&world, &["DEL", &there]).await;
        by_hand(&world, &["SET", &there, "x"]).await;
        let mut jobs = world.claim_near(DESTINATION, 10).await.jobs;
        assert!(recipients(&jobs).contains(&nearby.as_str()), "{name}");
        if name == "due" {
            assert_eq!(jobs.len(), 1);
            repair(&world).await;
            jobs.extend(world.claim_near(DESTINATION, 10).await.jobs);
        }
        assert_eq!(jobs.len(), 2, "{name}");
        settle_together(&world, jobs, &[Settled::Done, Settled::Done]).await;
        let reset = world.events_of(EventKind::ValueReset).await;
        assert_eq!(
            reset
                .iter()
                .map(|event| event.reason.as_deref())
                .collect::<Vec<_>>(),
            [Some(name)]
        );
    }
}

#[tokio::test]
async fn an_unreadable_mark_of_a_leased_job_costs_one_attempt_and_loses_no_message() {
    for mark in ["", "x", "1", "1 x", "-1 -1", "1 2 3"] {
        let world = world().await;
        let [here, nearby] = ["jo", "sam"].map(|name| format!("{name}@{DESTINATION}"));
        post_due(&world, &here).await;
        post_due(&world, &nearby).await;
        let mut jobs = world.claim_near(DESTINATION, 10).await.jobs;
        jobs.sort_by_key(|leased| leased.lease.job.clone());
        world.post_bounce(bounce(&here, "m2", FULL)).await;
        by_hand(
            &world,
            &["HSET", &key(&world, "meanwhile"), &id(&here).key(), mark],
        )
        .await;
        world.extend(&jobs[0].lease).await;
        world.post_bounce(bounce(&here, "m3", FULL)).await;
        settle_together(&world, jobs, &[Settled::Void, Settled::Done]).await;
        repair(&world).await;
        assert_eq!(world.waiting(&here).await, ["m1", "m2", "m3"], "{mark:?}");
        let again = world.claim_near(DESTINATION, 10).await.jobs;
        assert_eq!(again.len(), 1, "{mark:?}");
        settle_together(&world, again, &[Settled::Done]).await;
        assert_eq!(world.final_events().await.len(), 4, "{mark:?}");
    }
}

#[tokio::test]
async fn unreadable_marks_of_a_lease_do_not_stop_claims_in_its_shard() {
    for marks in ["", "x", &"z".repeat(20_000), &"1".repeat(20_000)] {
        let world = world().await;
        let other = neighbour(&world);
        post_due(&world, &format!("jo@{DESTINATION}")).await;
        let leased = world.claim_near(DESTINATION, 10).await.jobs.remove(0);
        let token = leased.lease.token.to_string();
        by_hand(&world, &["HSET", &key(&world, "leased"), &token, marks]).await;
        by_hand(
            &world,
            &[
                "HSET",
                &key(&world, "lapses"),
                &id(leased.lease.recipient()).key(),
                "x",
            ],
        )
        .await;
        world.clock.advance(LEASE);
        post_due(&world, &format!("jo@{other}")).await;
        let mut jobs = world.claim_near(DESTINATION, 10).await.jobs;
        assert!(
            recipients(&jobs).contains(&format!("jo@{other}").as_str()),
            "{} marks",
            marks.len()
        );
        repair(&world).await;
        jobs.extend(world.claim_near(DESTINATION, 10).await.jobs);
        assert_eq!(jobs.len(), 2, "{} marks", marks.len());
        settle_together(&world, jobs, &[Settled::Done, Settled::Done]).await;
    }
}

#[tokio::test]
async fn a_counter_that_is_not_a_number_starts_again_from_zero() {
    let world = world().await;
    by_hand(&world, &["SET", &key(&world, "serial"), "x"]).await;
    post_due(&world, &format!("jo@{DESTINATION}")).await;
    post_due(&world, &format!("sam@{DESTINATION}")).await;
    let mut jobs = world.claim_near(DESTINATION, 10).await.jobs;
    world.mail.reply_with(OK);
    let settlement = world.attempt(jobs.remove(0)).await;
    let day = world.now().ms().div_euclid(86_400_000);
    let tally = settlement.tally.to_string();
    by_hand(
        &world,
        &[
            "HSET",
            &key(&world, &format!("tally:{day}:{DESTINATION}")),
            &tally,
            "x",
        ],
    )
    .await;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
    settle_together(&world, jobs, &[Settled::Done]).await;
    let tallies = world
        .store
        .tally(&Destination::named(DESTINATION), world.now())
        .await
        .unwrap();
    assert_eq!(tallies.into_iter().map(|(_, count)| count).sum::<u64>(), 2);
}

async fn world() -> World {
    World::with(Settings {
        pace: Pace {
            window_new: 20,
            ..Pace::default()
        },
        ..Settings::default()
    })
    .await
}

/// Posts a bounce whose job is due at once.
async fn post_due(world: &World, address: &str) {
    let mut posted = bounce(address, "m1", FULL);
    posted["occurred_at"] = "2026-11-01T00:00:00Z".into();
    assert!(
        matches!(world.post_bounce(posted).await, Answer::Scheduled { .. }),
        "{address}"
    );
}

/// Attempts all jobs and settles them in one call.
async fn settle_together(world: &World, jobs: Vec<LeasedJob>, expected: &[Settled]) {
    world.mail.reply_with(OK);
    let mut settlements = Vec::new();
    for leased in jobs {
        settlements.push(world.attempt(leased).await);
    }
    assert_eq!(world.settle_all(&settlements).await, expected);
}

async fn repair(world: &World) {
    for shard in 0..world.store.shards() {
        world.store.repair(shard).await.unwrap();
        world.store.trim_marks(shard).await.unwrap();
    }
}

fn recipients(jobs: &[LeasedJob]) -> Vec<&str> {
    jobs.iter().map(|leased| leased.lease.recipient()).collect()
}

fn shard(world: &World, name: &str) -> u16 {
    Destination::named(name).shard(world.store.shards())
}

/// Another destination of the same shard.
fn neighbour(world: &World) -> String {
    let mut names = (0..).map(|n| format!("other{n}.example"));
    names
        .find(|name| shard(world, name) == shard(world, DESTINATION))
        .expect("one of infinitely many names is in the shard")
}

fn key(world: &World, name: &str) -> String {
    format!(
        "{}{name}",
        Keys::new(&world.prefix, world.store.shards())
            .shard(shard(world, DESTINATION))
            .prefix
    )
}

/// Changes Redis directly, as none of our programs would.
async fn by_hand(world: &World, words: &[&str]) {
    assert!(words[1].starts_with(&world.prefix));
    redis::ask(&redis::url(), words).await;
}
