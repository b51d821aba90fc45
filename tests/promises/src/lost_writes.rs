//! Redis may lose its last writes while processes that know of them live on: after a crash, if it
//! keeps snapshots alone, or in a failover. What they still hold from the lost history changes
//! nothing in the new one.

use std::time::Duration;

use domain::event::EventKind;
use harness::bounce::{FULL, OK, bounce};
use harness::forgetful::Forgetful;
use harness::servers::programs;
use harness::wait::eventually;
use harness::world::{DAY, HOUR, MS, Settings, World, id};
use serde_json::json;
use store::claim::LeasedJob;
use store::lease::Extended;
use store::repair::Repaired;
use store::settle::Settled;

use crate::deployments::connections;

mod keys;

const HOST: &str = "example.com";

/// Its job is in the snapshot.
const KEPT: &str = "kept@example.com";

/// Its job came after the snapshot, and is due before the other.
const LOST: &str = "lost@example.com";

async fn world_on(redis: &Forgetful) -> World {
    World::on(
        connections(&format!("url = \"{}\"\n", redis.url())),
        Settings::default(),
    )
    .await
}

async fn forget(redis: &Forgetful, world: &World) {
    redis.forget().await;
    eventually("the store", async || world.store.ping().await.ok()).await;
}

/// Takes in a bounce that happened this long ago, so that it is due that much sooner.
async fn take_in(world: &World, address: &str, ago: Duration) {
    let occurred = domain::clock::Timestamp::from_ms(world.now().ms() - ago.as_millis() as i64);
    let mut posted = bounce(address, "m1", FULL);
    posted["occurred_at"] = json!(occurred);
    world.take_in(posted).await;
}

/// The job that is due first, leased.
async fn claim_first(world: &World, address: &str) -> LeasedJob {
    let leased = world.claim_near(HOST, 1).await.jobs.remove(0);
    assert_eq!(leased.job.id, id(address));
    leased
}

/// Leases a job in a history that is lost then. What is left is one job of the same destination,
/// which is due.
async fn lease_of_a_lost_history(redis: &Forgetful, world: &World) -> LeasedJob {
    take_in(world, KEPT, Duration::ZERO).await;
    redis.remember();
    take_in(world, LOST, 12 * HOUR).await;
    world.clock.advance(3 * DAY);
    let lost = claim_first(world, LOST).await;
    forget(redis, world).await;
    lost
}

#[tokio::test]
async fn a_lease_of_a_lost_history_changes_nothing_although_its_serial_is_given_again() {
    for program in programs() {
        let redis = Forgetful::start(&program).await;
        let mut world = world_on(&redis).await;
        let lost = lease_of_a_lost_history(&redis, &world).await;
        // Another process claims next, by a clock that stands: nothing but the nonce tells the
        // leases apart.
        world.restart().await;
        let kept = claim_first(&world, KEPT).await;
        assert_eq!(
            (kept.lease.token.serial, kept.lease.number),
            (lost.lease.token.serial, lost.lease.number)
        );
        assert_ne!(kept.lease.token, lost.lease.token);

        assert_eq!(world.extend(&lost.lease).await, Extended::Lapsed);
        assert!(!world.release(&lost.lease).await);
        assert!(!world.crash(&lost.lease).await);
        world.mail.says(OK);
        let late = world.attempt(lost).await;
        assert_eq!(world.settle(&late).await, Settled::Stale);
        assert!(
            world.job(KEPT).await.leased_until.is_some(),
            "the lease of the new history is as it was"
        );
        assert_eq!(world.pace(HOST).await.in_flight, 1);

        let settlement = world.attempt(kept).await;
        assert_eq!(world.settle(&settlement).await, Settled::Done);
        assert_eq!(world.final_events().await.len(), 1);
    }
}

#[tokio::test]
async fn leases_of_a_lost_history_count_as_older_than_all_that_come_after() {
    for program in programs() {
        // Whether another process claims next, and how the clock goes on.
        for (another, clock) in [(true, "goes on"), (false, "stands"), (false, "is put back")] {
            let redis = Forgetful::start(&program).await;
            let mut world = world_on(&redis).await;
            let lost = lease_of_a_lost_history(&redis, &world).await;
            match clock {
                "goes on" => world.clock.advance(MS),
                "is put back" => world
                    .clock
                    .set(domain::clock::Timestamp::from_ms(world.now().ms() - 1_000)),
                _ => {}
            }
            if another {
                world.restart().await;
            }
            let kept = claim_first(&world, KEPT).await;
            assert!(
                kept.lease.token.serial > lost.lease.token.serial,
                "another: {another}, the clock {clock}"
            );
        }
    }
}

/// What all shards show together, and what the repairs of them found; none if another process did
/// them.
async fn put_right(world: &World) -> (bool, bool, Vec<Option<Repaired>>) {
    let (mut is_another, mut is_proof, mut repaired) = (false, false, Vec::new());
    for mut incident in world.store.notice_losses().await {
        is_another |= incident.look.is_another;
        is_proof |= incident.look.is_proof();
        repaired.push(world.store.put_right(&mut incident).await.unwrap());
    }
    (is_another, is_proof, repaired)
}

#[tokio::test]
async fn a_loss_is_noticed_counted_once_and_put_right_at_once() {
    for program in programs() {
        // What is lost: a bounce that was answered, a claim, both, or nothing.
        for lost in ["bounce", "claim", "both", "nothing"] {
            let redis = Forgetful::start(&program).await;
            let mut world = world_on(&redis).await;
            // One process takes bounces in, and another claims.
            let other = world.store.clone();
            world.restart().await;
            world.take_in_and_wait(bounce(KEPT, "m1", FULL)).await;
            for store in [&world.store, &other] {
                assert!(
                    store.notice_losses().await.is_empty(),
                    "the first look remembers where it is"
                );
            }
            redis.remember();
            if matches!(lost, "bounce" | "both") {
                world.take_in(bounce(LOST, "m1", FULL)).await;
            }
            if matches!(lost, "claim" | "both") {
                claim_first(&world, KEPT).await;
            }
            forget(&redis, &world).await;

            let shards = usize::from(world.store.shards());
            let (is_another, is_proof, repaired) = put_right(&world).await;
            assert_eq!(
                (is_another, is_proof),
                (true, matches!(lost, "claim" | "both")),
                "{lost}"
            );
            assert_eq!(
                repaired,
                vec![Some(Repaired::default()); shards],
                "{lost}: a shard is at one moment of its history"
            );
            // Another process notices the same and leaves it to the first.
            let mut incidents = other.notice_losses().await;
            assert_eq!(incidents.len(), shards);
            for incident in &mut incidents {
                assert_eq!(other.put_right(incident).await.unwrap(), None, "{lost}");
            }
            let told = world.events_of(EventKind::WritesLost).await;
            assert_eq!(told.len(), usize::from(lost != "nothing"), "{lost}");
            assert!(
                world.store.notice_losses().await.is_empty(),
                "once is enough"
            );
            assert_eq!(claim_first(&world, KEPT).await.job.head.attempt, 0);
        }
    }
}

#[tokio::test]
async fn a_claim_tells_that_writes_were_lost_even_if_another_has_claimed_since() {
    let redis = Forgetful::start(&programs()[0]).await;
    let world = world_on(&redis).await;
    let lost = lease_of_a_lost_history(&redis, &world).await;
    // It has not looked at the server before: the claim is all that it goes by.
    let kept = claim_first(&world, KEPT).await;
    assert!(kept.lease.token.serial > lost.lease.token.serial);
    let incidents = world.store.notice_losses().await;
    assert_eq!(incidents.len(), 1);
    assert!(incidents[0].look.is_behind);
}

#[tokio::test]
async fn who_was_given_a_step_and_did_not_hear_so_is_given_it_again() {
    let redis = Forgetful::start(&programs()[0]).await;
    let world = world_on(&redis).await;
    world.store.notice_losses().await;
    redis.remember();
    forget(&redis, &world).await;
    for incident in world.store.notice_losses().await {
        for _ in 0..2 {
            let repaired = world.store.put_right(&mut incident.clone()).await.unwrap();
            assert!(repaired.is_some(), "the answer to the first may be lost");
        }
    }
}

#[tokio::test]
async fn claims_during_a_look_are_no_loss() {
    const LOOKS: usize = 300;
    let world = World::new().await;
    take_in(&world, KEPT, Duration::ZERO).await;
    world.clock.advance(3 * DAY);
    let claims = async {
        loop {
            let leased = claim_first(&world, KEPT).await;
            assert!(world.release(&leased.lease).await);
        }
    };
    let looks = async {
        for _ in 0..LOOKS {
            let look = world
                .store
                .look(shard(&world))
                .await
                .expect("Redis answers");
            assert!(!look.is_proof(), "{look:?}");
        }
    };
    tokio::select! {
        () = claims => {}
        () = looks => {}
    }
}

#[tokio::test]
async fn jobs_in_no_set_at_all_are_due_again_as_soon_as_a_loss_is_noticed() {
    let redis = Forgetful::start(&programs()[0]).await;
    let world = world_on(&redis).await;
    world.take_in_and_wait(bounce(KEPT, "m1", FULL)).await;
    world.store.notice_losses().await;
    let due = format!("{}:{{{}}}:due:{HOST}", world.prefix, shard(&world));
    assert_eq!(redis.ask(&["DEL", &due]), "1");
    redis.remember();
    forget(&redis, &world).await;
    let (_, _, repaired) = put_right(&world).await;
    let jobs: u64 = repaired
        .iter()
        .flatten()
        .flat_map(|repaired| repaired.recovered.values())
        .sum();
    assert_eq!(jobs, 1);
    claim_first(&world, KEPT).await;
}

fn shard(world: &World) -> u16 {
    domain::destination::Destination::named(HOST).shard(world.store.shards())
}
