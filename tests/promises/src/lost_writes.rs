//! Redis may lose its last writes while processes that know of them continue: after a crash if it
//! only saves snapshots, or in a failover. Leases and other state from before the loss change
//! nothing afterwards.

use std::time::Duration;

use domain::event::EventKind;
use harness::bounce::{FULL, OK, bounce};
use harness::forgetful::SnapshotRedis;
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

/// The job of this address is in the snapshot.
const KEPT: &str = "kept@example.com";

/// The job of this address was created after the snapshot. It is due before the other one.
const LOST: &str = "lost@example.com";

async fn world_on(redis: &SnapshotRedis) -> World {
    World::on(
        connections(&format!("url = \"{}\"\n", redis.url())),
        Settings::default(),
    )
    .await
}

pub(super) async fn lose_writes(redis: &SnapshotRedis, world: &World) {
    redis.lose_last_writes().await;
    eventually("the store", async || world.store.ping().await.ok()).await;
}

/// Posts a bounce that happened `ago`, so that its job is due that much earlier.
async fn post_bounce_from(world: &World, address: &str, ago: Duration) {
    let occurred = domain::clock::Timestamp::from_ms(world.now().ms() - ago.as_millis() as i64);
    let mut posted = bounce(address, "m1", FULL);
    posted["occurred_at"] = json!(occurred);
    world.post_bounce(posted).await;
}

/// Leases the job that is due first.
async fn claim_first(world: &World, address: &str) -> LeasedJob {
    let leased = world.claim_near(HOST, 1).await.jobs.remove(0);
    assert_eq!(leased.job.id, id(address));
    leased
}

/// Leases a job, and then loses the job and its lease. One other job of the same destination is
/// left, and it is due.
async fn lease_of_a_lost_history(redis: &SnapshotRedis, world: &World) -> LeasedJob {
    post_bounce_from(world, KEPT, Duration::ZERO).await;
    redis.take_snapshot();
    post_bounce_from(world, LOST, 12 * HOUR).await;
    world.clock.advance(3 * DAY);
    let lost = claim_first(world, LOST).await;
    lose_writes(redis, world).await;
    lost
}

#[tokio::test]
async fn a_lease_from_before_the_loss_changes_nothing_even_if_its_serial_number_is_used_again() {
    for program in programs() {
        let redis = SnapshotRedis::start(&program).await;
        let mut world = world_on(&redis).await;
        let lost = lease_of_a_lost_history(&redis, &world).await;
        // Another process claims next, while the clock does not move: only the nonce distinguishes
        // the leases.
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
        world.mail.reply_with(OK);
        let late = world.attempt(lost).await;
        assert_eq!(world.settle(&late).await, Settled::Stale);
        assert!(
            world.job(KEPT).await.leased_until.is_some(),
            "the lease from after the loss is unchanged"
        );
        assert_eq!(world.pace(HOST).await.in_flight, 1);

        let settlement = world.attempt(kept).await;
        assert_eq!(world.settle(&settlement).await, Settled::Done);
        assert_eq!(world.final_events().await.len(), 1);
    }
}

#[tokio::test]
async fn leases_from_before_the_loss_count_as_older_than_all_later_leases() {
    for program in programs() {
        // Each case: whether another process claims next, and what the clock does.
        for (another, clock) in [(true, "moves on"), (false, "stops"), (false, "is set back")] {
            let redis = SnapshotRedis::start(&program).await;
            let mut world = world_on(&redis).await;
            let lost = lease_of_a_lost_history(&redis, &world).await;
            match clock {
                "moves on" => world.clock.advance(MS),
                "is set back" => world
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

/// Repairs the losses of all shards. Returns whether any server has changed, whether any loss is
/// proven, and what each repair found. `None` means that another process does the repair.
async fn repair_losses(world: &World) -> (bool, bool, Vec<Option<Repaired>>) {
    let (mut server_changed, mut is_proof, mut repaired) = (false, false, Vec::new());
    for mut incident in world.store.find_losses().await {
        server_changed |= incident.look.server_changed;
        is_proof |= incident.look.is_proof();
        repaired.push(world.store.repair_after_loss(&mut incident).await.unwrap());
    }
    (server_changed, is_proof, repaired)
}

#[tokio::test]
async fn a_loss_is_noticed_and_counted_once_and_repaired_at_once() {
    for program in programs() {
        // What is lost: an acknowledged bounce, a claim, both, or nothing.
        for lost in ["bounce", "claim", "both", "nothing"] {
            let redis = SnapshotRedis::start(&program).await;
            let mut world = world_on(&redis).await;
            // One process accepts bounces, and another claims.
            let other = world.store.clone();
            world.restart().await;
            world
                .post_and_wait_until_due(bounce(KEPT, "m1", FULL))
                .await;
            for store in [&world.store, &other] {
                assert!(
                    store.find_losses().await.is_empty(),
                    "the first check only records the position"
                );
            }
            redis.take_snapshot();
            if matches!(lost, "bounce" | "both") {
                world.post_bounce(bounce(LOST, "m1", FULL)).await;
            }
            if matches!(lost, "claim" | "both") {
                claim_first(&world, KEPT).await;
            }
            lose_writes(&redis, &world).await;

            let shards = usize::from(world.store.shards());
            let (server_changed, is_proof, repaired) = repair_losses(&world).await;
            assert_eq!(
                (server_changed, is_proof),
                (true, matches!(lost, "claim" | "both")),
                "{lost}"
            );
            assert_eq!(
                repaired,
                vec![Some(Repaired::default()); shards],
                "{lost}: each shard is consistent in itself"
            );
            // Another process notices the same loss and leaves it to the first.
            let mut incidents = other.find_losses().await;
            assert_eq!(incidents.len(), shards);
            for incident in &mut incidents {
                assert_eq!(
                    other.repair_after_loss(incident).await.unwrap(),
                    None,
                    "{lost}"
                );
            }
            let reported = world.events_of(EventKind::WritesLost).await;
            assert_eq!(reported.len(), usize::from(lost != "nothing"), "{lost}");
            assert!(
                world.store.find_losses().await.is_empty(),
                "the loss is not noticed again"
            );
            assert_eq!(claim_first(&world, KEPT).await.job.head.attempt, 0);
        }
    }
}

#[tokio::test]
async fn a_claim_shows_that_writes_were_lost_even_if_another_process_has_claimed_since() {
    let redis = SnapshotRedis::start(&programs()[0]).await;
    let world = world_on(&redis).await;
    let lost = lease_of_a_lost_history(&redis, &world).await;
    // The process has not checked the server before, so it can compare it only with the claim.
    let kept = claim_first(&world, KEPT).await;
    assert!(kept.lease.token.serial > lost.lease.token.serial);
    let incidents = world.store.find_losses().await;
    assert_eq!(incidents.len(), 1);
    assert!(incidents[0].look.is_behind);
}

#[tokio::test]
async fn a_process_that_lost_the_answer_to_its_claim_of_a_repair_can_claim_it_again() {
    let redis = SnapshotRedis::start(&programs()[0]).await;
    let world = world_on(&redis).await;
    world.store.find_losses().await;
    redis.take_snapshot();
    lose_writes(&redis, &world).await;
    for incident in world.store.find_losses().await {
        for _ in 0..2 {
            let repaired = world
                .store
                .repair_after_loss(&mut incident.clone())
                .await
                .unwrap();
            assert!(
                repaired.is_some(),
                "the answer to the first call may be lost"
            );
        }
    }
}

#[tokio::test]
async fn claims_made_during_a_check_do_not_count_as_a_loss() {
    const CHECKS: usize = 300;
    let world = World::new().await;
    post_bounce_from(&world, KEPT, Duration::ZERO).await;
    world.clock.advance(3 * DAY);
    let claims = async {
        loop {
            let leased = claim_first(&world, KEPT).await;
            assert!(world.release(&leased.lease).await);
        }
    };
    let checks = async {
        for _ in 0..CHECKS {
            let look = world
                .store
                .check_for_lost_writes(shard(&world))
                .await
                .expect("Redis answers");
            assert!(!look.is_proof(), "{look:?}");
        }
    };
    tokio::select! {
        () = claims => {}
        () = checks => {}
    }
}

#[tokio::test]
async fn jobs_missing_from_every_set_are_due_again_as_soon_as_a_loss_is_noticed() {
    let redis = SnapshotRedis::start(&programs()[0]).await;
    let world = world_on(&redis).await;
    world
        .post_and_wait_until_due(bounce(KEPT, "m1", FULL))
        .await;
    world.store.find_losses().await;
    let due = format!("{}:{{{}}}:due:{HOST}", world.prefix, shard(&world));
    assert_eq!(redis.ask(&["DEL", &due]), "1");
    redis.take_snapshot();
    lose_writes(&redis, &world).await;
    let (_, _, repaired) = repair_losses(&world).await;
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
