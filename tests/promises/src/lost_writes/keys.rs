//! If Redis loses its last writes, the remaining data stays consistent. A lost call takes effect
//! when it is repeated.

// The tests are in the order of the table in docs/explanation/durability.md.

use std::time::Duration;

use domain::destination::Destination;
use domain::event::EventKind;
use domain::standing::Standing;
use harness::bounce::{FULL, OK, TOO_BIG, UNKNOWN, bounce};
use harness::forgetful::SnapshotRedis;
use harness::servers::programs;
use harness::world::{DAY, LEASE, World, id};
use serde_json::json;
use store::entry_id::EntryId;
use store::look::EntryState;
use store::schedule::Answer;
use store::settle::{SettleCall, Settled};
use store::workers::WorkerId;

use super::{HOST, KEPT, LOST, claim_first, lose_writes, repair_losses, world_on};

/// A server and a world on it, which has checked its shards for losses once.
async fn open() -> (SnapshotRedis, World) {
    let redis = SnapshotRedis::start(&programs()[0]).await;
    let world = world_on(&redis).await;
    world.store.find_losses().await;
    (redis, world)
}

// Key: `jobs`.
#[tokio::test]
async fn a_lost_bounce_is_accepted_again_when_it_is_repeated() {
    let (redis, world) = open().await;
    redis.take_snapshot();
    world.post_bounce(bounce(LOST, "m1", FULL)).await;
    lose_writes(&redis, &world).await;
    assert_eq!(world.job_if_any(LOST).await.map(|_| ()), None);
    assert!(matches!(
        world.post_bounce(bounce(LOST, "m1", FULL)).await,
        Answer::Scheduled { .. }
    ));
}

// Key: `settled`.
#[tokio::test]
async fn a_lost_settlement_takes_effect_when_its_call_is_repeated() {
    let (redis, world) = open().await;
    world
        .post_and_wait_until_due(bounce(KEPT, "m1", FULL))
        .await;
    world.mail.reply_with(OK);
    let settlement = [world.attempt(world.claim_one().await).await];
    redis.take_snapshot();
    let call = SettleCall::unique();
    for _ in 0..2 {
        assert_eq!(
            world.store.settle(call, &settlement).await.unwrap().settled,
            [Settled::Done]
        );
        assert_eq!(world.final_events().await.len(), 1);
        lose_writes(&redis, &world).await;
        assert_eq!(world.final_events().await.len(), 0);
    }
    // If the call is not repeated, the lease ends and the attempt is made again, with an exact
    // counter.
    world.clock.advance(LEASE);
    let again = world.claim_one().await;
    assert_eq!(
        (
            again.job.head.attempt,
            world.events_of(EventKind::JobLapsed).await.len()
        ),
        (0, 1)
    );
    let (.., repaired) = repair_losses(&world).await;
    assert!(
        repaired
            .iter()
            .flatten()
            .all(|repaired| *repaired == Default::default()),
        "{repaired:?}"
    );
}

// Key: `meanwhile`.
#[tokio::test]
async fn if_the_retirement_of_a_leased_job_is_lost_its_lease_is_valid_as_before() {
    let (redis, world) = open().await;
    world
        .post_and_wait_until_due(bounce(KEPT, "m1", FULL))
        .await;
    let leased = world.claim_one().await;
    redis.take_snapshot();
    world.post_bounce(bounce(KEPT, "m2", UNKNOWN)).await;
    assert_eq!(world.standing(KEPT).await, Standing::Inactive);
    lose_writes(&redis, &world).await;
    assert_eq!(
        (world.standing(KEPT).await, world.pace(HOST).await.in_flight),
        (Standing::Active, 1)
    );
    world.mail.reply_with(OK);
    let settlement = world.attempt(leased).await;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
}

// Key: `quarantine`.
#[tokio::test]
async fn a_lost_lapse_is_counted_when_it_is_reported_again() {
    let (redis, world) = open().await;
    world
        .post_and_wait_until_due(bounce(KEPT, "m1", FULL))
        .await;
    let leased = world.claim_one().await;
    redis.take_snapshot();
    for _ in 0..2 {
        assert!(world.crash(&leased.lease).await);
        assert_eq!(world.events_of(EventKind::JobLapsed).await.len(), 1);
        lose_writes(&redis, &world).await;
    }
    assert_eq!(world.events_of(EventKind::JobLapsed).await.len(), 0);
}

// Key: `pace`.
#[tokio::test]
async fn only_the_remaining_leases_count_as_in_flight_and_late_settlements_change_no_pace() {
    let (redis, world) = open().await;
    world.post_due_jobs(HOST, 2).await;
    redis.take_snapshot();
    let lost = world.claim().await;
    assert_eq!((lost.len(), world.pace(HOST).await.in_flight), (2, 2));
    lose_writes(&redis, &world).await;
    let before = world.pace(HOST).await;
    assert_eq!(before.in_flight, 0);
    world.mail.reply_with(FULL);
    for leased in lost {
        let late = world.attempt(leased).await;
        assert_eq!(world.settle(&late).await, Settled::Stale);
    }
    assert_eq!(
        world.pace(HOST).await,
        before,
        "window, narrowed and breaker are unchanged"
    );
    assert_eq!(world.claim().await.len(), 2);
}

// Key: `seen`.
#[tokio::test]
async fn forgotten_webhook_events_count_as_new_and_a_lost_claim_cannot_release_a_newer_one() {
    let (redis, world) = open().await;
    redis.take_snapshot();
    let ids = ["ses:1".to_owned()];
    world.store.mark_seen(&ids).await.unwrap();
    let claim = world.store.claim_request("once").await.unwrap().unwrap();
    lose_writes(&redis, &world).await;
    assert_eq!(world.store.seen(&ids).await.unwrap(), [false]);
    let another = world.store.claim_request("once").await.unwrap().unwrap();
    assert!(
        !world.store.release_request(&claim).await.unwrap(),
        "the first claim is no longer valid"
    );
    assert!(
        world.store.claim_request("once").await.unwrap().is_none(),
        "the second claim is still valid"
    );
    assert!(world.store.release_request(&another).await.unwrap());
}

// Key: `delivered`.
#[tokio::test]
async fn if_a_delivery_is_lost_an_older_bounce_starts_a_job() {
    let (redis, world) = open().await;
    redis.take_snapshot();
    world
        .report_fact(json!({"recipient": KEPT, "type": "delivered"}))
        .await;
    let mut old = bounce(KEPT, "m1", FULL);
    old["occurred_at"] = json!(domain::clock::Timestamp::from_ms(world.now().ms() - 60_000));
    assert_eq!(world.post_bounce(old.clone()).await, Answer::Stale);
    lose_writes(&redis, &world).await;
    assert!(matches!(
        world.post_bounce(old).await,
        Answer::Scheduled { .. }
    ));
}

// Keys: `dropped` and `tally`.
#[tokio::test]
async fn after_a_loss_a_dropped_message_has_exactly_one_event_again() {
    let (redis, world) = open().await;
    redis.take_snapshot();
    for _ in 0..2 {
        for _ in 0..2 {
            assert_eq!(
                world.post_bounce(bounce(KEPT, "m1", TOO_BIG)).await,
                Answer::Dropped
            );
        }
        assert_eq!(world.final_events().await.len(), 1);
        lose_writes(&redis, &world).await;
        assert_eq!(world.final_events().await.len(), 0);
    }
}

// Key: `standing`.
#[tokio::test]
async fn a_lost_suppression_takes_effect_when_it_is_reported_again() {
    let (redis, world) = open().await;
    redis.take_snapshot();
    for _ in 0..2 {
        world
            .report_fact(json!({"recipient": KEPT, "type": "complaint"}))
            .await;
        assert_eq!(world.standing(KEPT).await, Standing::Suppressed);
        lose_writes(&redis, &world).await;
        assert_eq!(world.standing(KEPT).await, Standing::Active);
    }
}

// Key: `upkeep`.
#[tokio::test]
async fn an_upkeep_run_whose_claim_was_lost_can_run_again() {
    let (redis, world) = open().await;
    redis.take_snapshot();
    let claim = async || {
        world
            .store
            .claim_occurrence("reinstate", world.now(), DAY)
            .await
            .unwrap()
    };
    assert!(claim().await && !claim().await);
    lose_writes(&redis, &world).await;
    assert!(claim().await, "each task is idempotent");
}

// Key: `journal`.
#[tokio::test]
async fn a_reader_that_saw_lost_events_continues_with_the_next_ones_and_learns_of_the_gap() {
    let (redis, world) = open().await;
    world.post_bounce(bounce(KEPT, "m1", FULL)).await;
    let kept = world.store.journal_ends().await.unwrap();
    redis.take_snapshot();
    world.post_bounce(bounce(LOST, "m1", FULL)).await;
    let seen = world.store.journal_ends().await.unwrap();
    assert!(
        world
            .store
            .journal_gaps(&seen)
            .await
            .unwrap()
            .iter()
            .all(Option::is_none)
    );
    lose_writes(&redis, &world).await;
    let gaps: Vec<_> = world
        .store
        .journal_gaps(&seen)
        .await
        .unwrap()
        .into_iter()
        .flatten()
        .collect();
    let place = kept
        .into_iter()
        .find(|id| *id != EntryId::default())
        .unwrap();
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].state, gaps[0].after), (EntryState::Lost, place));
    // Upkeep can still remove old entries.
    world.store.trim_journal(Duration::ZERO).await.unwrap();
}

// Key: `place`.
#[tokio::test]
async fn lost_placements_that_a_process_remembers_are_written_again_for_all_processes() {
    let (redis, world) = open().await;
    redis.take_snapshot();
    let google = Destination::named("google");
    assert_eq!(
        world.store.destinations(&["gmail.com"]).await.unwrap(),
        std::slice::from_ref(&google)
    );
    world.post_bounce(bounce("jo@gmail.com", "m1", FULL)).await;
    assert_eq!(
        world.store.kept(&["gmail.com"]).await.unwrap(),
        [Some(google.clone())]
    );
    lose_writes(&redis, &world).await;
    let other = world.store_by_real_time().await;
    assert_eq!(
        other.kept(&["gmail.com"]).await.unwrap(),
        [None],
        "Redis has lost the placement"
    );
    repair_losses(&world).await;
    assert_eq!(other.kept(&["gmail.com"]).await.unwrap(), [Some(google)]);
}

// Key: `workers`.
#[tokio::test]
async fn a_lost_heartbeat_is_replaced_by_the_next_one() {
    let (redis, world) = open().await;
    redis.take_snapshot();
    let worker = WorkerId::unique();
    let beat = async || {
        world
            .store
            .heartbeat(worker, Duration::from_secs(60))
            .await
            .unwrap()
    };
    assert_eq!(beat().await, [worker]);
    lose_writes(&redis, &world).await;
    assert!(world.store.workers().await.unwrap().is_empty());
    assert_eq!(beat().await, [worker]);
}

// Key: `meta`.
#[tokio::test]
async fn a_store_that_came_back_without_its_settings_gets_them_again() {
    let (redis, world) = open().await;
    let meta = format!("{}:meta", world.prefix);
    assert_eq!(redis.ask(&["DEL", &meta]), "1");
    redis.take_snapshot();
    lose_writes(&redis, &world).await;
    repair_losses(&world).await;
    assert_eq!(
        redis.ask(&["HGET", &meta, "shards"]),
        world.store.shards().to_string()
    );
}

// Key: `intake`.
#[tokio::test]
async fn a_lost_reader_group_is_created_again_and_entries_whose_removal_was_lost_are_read_again() {
    let (redis, world) = open().await;
    let stream = format!("{}:intake", world.prefix);
    redis.ask(&["XADD", &stream, "*", "bounce", "{}"]);
    redis.take_snapshot();
    world.store.open_intake().await.unwrap();
    let read = async || {
        world
            .store
            .read_intake("reader", 10, Duration::from_millis(1))
            .await
    };
    for _ in 0..2 {
        let entries = read().await.unwrap();
        assert_eq!(entries.len(), 1);
        world
            .store
            .finish_intake(&[entries[0].id.clone()])
            .await
            .unwrap();
        lose_writes(&redis, &world).await;
        assert!(read().await.is_err(), "the group is gone");
        world.store.open_intake().await.unwrap();
    }
}

// Keys: `leases` and `serial`.
#[tokio::test]
async fn jobs_whose_claim_was_lost_are_claimed_and_tried_again() {
    let (redis, world) = open().await;
    world
        .post_and_wait_until_due(bounce(KEPT, "m1", FULL))
        .await;
    redis.take_snapshot();
    let lost = claim_first(&world, KEPT).await;
    lose_writes(&redis, &world).await;
    let again = claim_first(&world, KEPT).await;
    assert_eq!(again.job.id, id(KEPT));
    assert!(!world.release(&lost.lease).await);
    assert!(world.release(&again.lease).await);
}
