//! What each key means for processes that live on while Redis loses the last second of writes: the
//! rows of the table in docs/durability.md, in its order.

use std::time::Duration;

use domain::destination::Destination;
use domain::event::EventKind;
use domain::standing::Standing;
use harness::bounce::{FULL, OK, TOO_BIG, UNKNOWN, bounce};
use harness::forgetful::Forgetful;
use harness::servers::programs;
use harness::world::{DAY, LEASE, World, id};
use serde_json::json;
use store::entry_id::EntryId;
use store::look::EntryState;
use store::schedule::Answer;
use store::settle::{SettleCall, Settled};
use store::workers::WorkerId;

use super::{HOST, KEPT, LOST, claim_first, forget, put_right, world_on};

async fn open() -> (Forgetful, World) {
    let redis = Forgetful::start(&programs()[0]).await;
    let world = world_on(&redis).await;
    world.store.notice_losses().await;
    (redis, world)
}

#[tokio::test]
async fn jobs_a_lost_bounce_is_taken_in_again_when_it_is_repeated() {
    let (redis, world) = open().await;
    redis.remember();
    world.take_in(bounce(LOST, "m1", FULL)).await;
    forget(&redis, &world).await;
    assert_eq!(world.job_if_any(LOST).await.map(|_| ()), None);
    assert!(matches!(
        world.take_in(bounce(LOST, "m1", FULL)).await,
        Answer::Scheduled { .. }
    ));
}

#[tokio::test]
async fn settled_a_lost_settlement_takes_effect_when_its_call_is_repeated() {
    let (redis, world) = open().await;
    world.take_in_and_wait(bounce(KEPT, "m1", FULL)).await;
    world.mail.says(OK);
    let settlement = [world.attempt(world.claim_one().await).await];
    redis.remember();
    let call = SettleCall::unique();
    for _ in 0..2 {
        assert_eq!(
            world.store.settle(call, &settlement).await.unwrap().settled,
            [Settled::Done]
        );
        assert_eq!(world.final_events().await.len(), 1);
        forget(&redis, &world).await;
        assert_eq!(world.final_events().await.len(), 0);
    }
    // If nobody repeats it, the lease runs out and the attempt is made again, with an exact
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
    let (.., repaired) = put_right(&world).await;
    assert!(
        repaired
            .iter()
            .flatten()
            .all(|repaired| *repaired == Default::default()),
        "{repaired:?}"
    );
}

#[tokio::test]
async fn meanwhile_a_lost_mark_leaves_the_lease_as_it_was() {
    let (redis, world) = open().await;
    world.take_in_and_wait(bounce(KEPT, "m1", FULL)).await;
    let leased = world.claim_one().await;
    redis.remember();
    world.take_in(bounce(KEPT, "m2", UNKNOWN)).await;
    assert_eq!(world.standing(KEPT).await, Standing::Inactive);
    forget(&redis, &world).await;
    assert_eq!(
        (world.standing(KEPT).await, world.pace(HOST).await.in_flight),
        (Standing::Active, 1)
    );
    world.mail.says(OK);
    let settlement = world.attempt(leased).await;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
}

#[tokio::test]
async fn quarantine_a_lost_lapse_is_counted_when_it_comes_again() {
    let (redis, world) = open().await;
    world.take_in_and_wait(bounce(KEPT, "m1", FULL)).await;
    let leased = world.claim_one().await;
    redis.remember();
    for _ in 0..2 {
        assert!(world.crash(&leased.lease).await);
        assert_eq!(world.events_of(EventKind::JobLapsed).await.len(), 1);
        forget(&redis, &world).await;
    }
    assert_eq!(world.events_of(EventKind::JobLapsed).await.len(), 0);
}

#[tokio::test]
async fn pace_counts_the_leases_that_are_left_and_late_news_changes_nothing() {
    let (redis, world) = open().await;
    world.with_due(HOST, 2).await;
    redis.remember();
    let lost = world.claim().await;
    assert_eq!((lost.len(), world.pace(HOST).await.in_flight), (2, 2));
    forget(&redis, &world).await;
    let before = world.pace(HOST).await;
    assert_eq!(before.in_flight, 0);
    world.mail.says(FULL);
    for leased in lost {
        let late = world.attempt(leased).await;
        assert_eq!(world.settle(&late).await, Settled::Stale);
    }
    assert_eq!(
        world.pace(HOST).await,
        before,
        "neither window, narrowed nor breaker has moved"
    );
    assert_eq!(world.claim().await.len(), 2);
}

#[tokio::test]
async fn seen_webhooks_are_taken_for_new_and_a_lost_claim_is_not_given_back_twice() {
    let (redis, world) = open().await;
    redis.remember();
    let ids = ["ses:1".to_owned()];
    world.store.mark_seen(&ids).await.unwrap();
    let claim = world.store.claim_request("once").await.unwrap().unwrap();
    forget(&redis, &world).await;
    assert_eq!(world.store.seen(&ids).await.unwrap(), [false]);
    let another = world.store.claim_request("once").await.unwrap().unwrap();
    assert!(
        !world.store.release_request(&claim).await.unwrap(),
        "it is not the first one's any more"
    );
    assert!(
        world.store.claim_request("once").await.unwrap().is_none(),
        "the second one has it still"
    );
    assert!(world.store.release_request(&another).await.unwrap());
}

#[tokio::test]
async fn delivered_without_the_delivery_an_old_bounce_starts_a_job() {
    let (redis, world) = open().await;
    redis.remember();
    world
        .tell(json!({"recipient": KEPT, "type": "delivered"}))
        .await;
    let mut old = bounce(KEPT, "m1", FULL);
    old["occurred_at"] = json!(domain::clock::Timestamp::from_ms(world.now().ms() - 60_000));
    assert_eq!(world.take_in(old.clone()).await, Answer::Stale);
    forget(&redis, &world).await;
    assert!(matches!(world.take_in(old).await, Answer::Scheduled { .. }));
}

#[tokio::test]
async fn dropped_and_tallies_a_message_is_dropped_once_in_the_history_that_is_left() {
    let (redis, world) = open().await;
    redis.remember();
    for _ in 0..2 {
        for _ in 0..2 {
            assert_eq!(
                world.take_in(bounce(KEPT, "m1", TOO_BIG)).await,
                Answer::Dropped
            );
        }
        assert_eq!(world.final_events().await.len(), 1);
        forget(&redis, &world).await;
        assert_eq!(world.final_events().await.len(), 0);
    }
}

#[tokio::test]
async fn standing_a_lost_suppression_is_there_when_it_is_told_again() {
    let (redis, world) = open().await;
    redis.remember();
    for _ in 0..2 {
        world
            .tell(json!({"recipient": KEPT, "type": "complaint"}))
            .await;
        assert_eq!(world.standing(KEPT).await, Standing::Suppressed);
        forget(&redis, &world).await;
        assert_eq!(world.standing(KEPT).await, Standing::Active);
    }
}

#[tokio::test]
async fn upkeep_a_lost_claim_lets_an_occurrence_run_again() {
    let (redis, world) = open().await;
    redis.remember();
    let claim = async || {
        world
            .store
            .claim_occurrence("reinstate", world.now(), DAY)
            .await
            .unwrap()
    };
    assert!(claim().await && !claim().await);
    forget(&redis, &world).await;
    assert!(claim().await, "each task is idempotent");
}

#[tokio::test]
async fn journal_a_reader_that_has_seen_what_is_lost_goes_on_with_what_comes_next_and_hears_of_the_gap()
 {
    let (redis, world) = open().await;
    world.take_in(bounce(KEPT, "m1", FULL)).await;
    let kept = world.store.journal_ends().await.unwrap();
    redis.remember();
    world.take_in(bounce(LOST, "m1", FULL)).await;
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
    forget(&redis, &world).await;
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
    // As upkeep does to what is old.
    world.store.trim_journal(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn placements_that_a_process_remembers_are_written_again_and_all_agree() {
    let (redis, world) = open().await;
    redis.remember();
    let google = Destination::named("google");
    assert_eq!(
        world.store.destinations(&["gmail.com"]).await.unwrap(),
        std::slice::from_ref(&google)
    );
    world.take_in(bounce("jo@gmail.com", "m1", FULL)).await;
    assert_eq!(
        world.store.kept(&["gmail.com"]).await.unwrap(),
        [Some(google.clone())]
    );
    forget(&redis, &world).await;
    let other = world.store_by_real_time().await;
    assert_eq!(
        other.kept(&["gmail.com"]).await.unwrap(),
        [None],
        "Redis has lost it"
    );
    put_right(&world).await;
    assert_eq!(other.kept(&["gmail.com"]).await.unwrap(), [Some(google)]);
}

#[tokio::test]
async fn workers_a_lost_heartbeat_is_made_good_by_the_next() {
    let (redis, world) = open().await;
    redis.remember();
    let worker = WorkerId::unique();
    let beat = async || {
        world
            .store
            .beat(worker, Duration::from_secs(60))
            .await
            .unwrap()
    };
    assert_eq!(beat().await, [worker]);
    forget(&redis, &world).await;
    assert!(world.store.workers().await.unwrap().is_empty());
    assert_eq!(beat().await, [worker]);
}

#[tokio::test]
async fn meta_of_a_store_that_came_back_empty_is_written_again() {
    let (redis, world) = open().await;
    let meta = format!("{}:meta", world.prefix);
    assert_eq!(redis.ask(&["DEL", &meta]), "1");
    redis.remember();
    forget(&redis, &world).await;
    put_right(&world).await;
    assert_eq!(
        redis.ask(&["HGET", &meta, "shards"]),
        world.store.shards().to_string()
    );
}

#[tokio::test]
async fn intake_a_lost_group_is_made_again_and_what_was_finished_is_read_again() {
    let (redis, world) = open().await;
    let stream = format!("{}:intake", world.prefix);
    redis.ask(&["XADD", &stream, "*", "bounce", "{}"]);
    redis.remember();
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
        forget(&redis, &world).await;
        assert!(read().await.is_err(), "the group is gone");
        world.store.open_intake().await.unwrap();
    }
}

#[tokio::test]
async fn leases_and_serial_are_as_they_were_and_their_jobs_are_tried_again() {
    let (redis, world) = open().await;
    world.take_in_and_wait(bounce(KEPT, "m1", FULL)).await;
    redis.remember();
    let lost = claim_first(&world, KEPT).await;
    forget(&redis, &world).await;
    let again = claim_first(&world, KEPT).await;
    assert_eq!(again.job.id, id(KEPT));
    assert!(!world.release(&lost.lease).await);
    assert!(world.release(&again.lease).await);
}
