//! At most one valid lease per job: what is done with a stale token changes nothing and says so.

use std::collections::HashSet;

use futures::future::join_all;
use harness::bounce::{FULL, OK, bounce};
use harness::world::{LEASE, MS, World};
use shared::event::EventKind;
use shared::store::claim::{ClaimBounds, LeasedJob};
use shared::store::lease::Extended;
use shared::store::settle::Settled;

const JO: &str = "jo@example.com";

#[tokio::test]
async fn a_lapsed_job_is_claimed_by_another_with_its_attempt_counter_exact() {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    world.mail.says(FULL);
    world.work().await;
    world.clock.set(world.job(JO).await.due.unwrap());

    let first = world.claim_one().await;
    world.clock.advance(LEASE - MS);
    assert_eq!(world.claim().await.len(), 0, "the lease holds until its deadline");
    world.clock.advance(MS);
    let second = world.claim_one().await;
    assert_eq!(second.job, first.job);
    assert_eq!(second.job.head.attempt, 1, "one attempt was settled, and one lapsed");
    assert!(second.lease.token > first.lease.token);
    assert_eq!(world.events_of(EventKind::JobLapsed).await.len(), 1);
}

#[tokio::test]
async fn a_stale_token_changes_nothing_and_says_so() {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    let first = world.claim_one().await;
    world.clock.advance(LEASE);
    let second = world.claim_one().await;
    world.take_in(bounce(JO, "m2", FULL)).await;
    let (job, events) = (world.job(JO).await, world.events().await);

    for reply in [OK, FULL, "550 5.1.1 No such user"] {
        world.mail.says(reply);
        let settlement = world.attempt(copy_of(&first)).await;
        assert_eq!(world.settle(&settlement).await, Settled::Stale, "{reply}");
    }
    let mut stale = first.lease;
    assert!(!world.release(&stale).await);
    assert_eq!(world.extend(&mut stale).await, Extended::Stale);

    let now = world.job(JO).await;
    assert_eq!((now.job, now.due, now.leased_until), (job.job, job.due, job.leased_until));
    assert_eq!(world.events().await, events);
    assert_eq!(world.standing_record(JO).await, None);

    world.mail.says(OK);
    let settlement = world.attempt(second).await;
    assert_eq!(world.settle(&settlement).await, Settled::Done, "the valid token still counts");
}

#[tokio::test]
async fn a_repeated_settle_is_stale_and_changes_nothing() {
    for reply in [OK, FULL] {
        let world = World::new().await;
        world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
        world.mail.says(reply);
        let settlement = world.attempt(world.claim_one().await).await;
        assert_eq!(world.settle(&settlement).await, Settled::Done);
        let (due, events) = (world.job_if_any(JO).await.map(|job| job.due), world.events().await);

        let twice = [settlement.clone(), settlement.clone()];
        assert_eq!(world.store.settle(&twice).await.unwrap().settled, [Settled::Stale; 2], "{reply}");
        assert_eq!(world.job_if_any(JO).await.map(|job| job.due), due);
        assert_eq!(world.events().await, events);
    }
}

#[tokio::test]
async fn one_batch_settles_a_job_once() {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    let settlement = world.attempt(world.claim_one().await).await;
    let settled = world.store.settle(&[settlement.clone(), settlement]).await.unwrap();
    assert_eq!(settled.settled, [Settled::Done, Settled::Stale]);
    assert_eq!(world.final_events().await.len(), 1);
}

#[tokio::test]
async fn an_extended_lease_holds_until_its_new_deadline_and_its_old_token_is_stale() {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    let mut leased = world.claim_one().await;
    let outdated = copy_of(&leased);
    world.clock.advance(LEASE - MS);
    assert_eq!(world.extend(&mut leased.lease).await, Extended::Yes);
    world.clock.advance(LEASE - MS);
    assert_eq!(world.claim().await.len(), 0);

    let settlement = world.attempt(outdated).await;
    assert_eq!(world.settle(&settlement).await, Settled::Stale);
    let settlement = world.attempt(leased).await;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
}

#[tokio::test]
async fn a_lease_whose_extension_was_not_heard_back_of_is_still_its_holders() {
    for heard_by_redis in [true, false] {
        let world = World::new().await;
        world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
        let mut leased = world.claim_one().await;
        let deadline = leased.lease.token.plus(LEASE);
        if heard_by_redis {
            world.store.extend(&[(copy_of(&leased).lease, deadline)]).await;
        }
        leased.lease.proposed = Some(deadline);
        let settlement = world.attempt(leased).await;
        assert_eq!(world.settle(&settlement).await, Settled::Done, "{heard_by_redis}");
    }
}

#[tokio::test]
async fn workers_that_claim_at_the_same_time_never_get_the_same_job() {
    let world = World::new().await;
    for n in 0..200 {
        world.take_in(bounce(&format!("user{n}@host{}.example", n % 5), "m1", FULL)).await;
    }
    world.clock.advance(LEASE * 60 * 48);
    let bounds = ClaimBounds { batch: 3, share: 2, lease: LEASE };
    let claims = (0..400).map(|n| world.store.claim(n % world.store.shards(), bounds));
    let claimed = join_all(claims).await.into_iter().flat_map(|claimed| claimed.unwrap().jobs);
    let ids: Vec<String> = claimed.map(|leased| leased.job.id.key()).collect();
    assert_eq!(ids.len(), 200);
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 200, "each job has been had once");
}

/// The same lease again, as a worker has it that does not know that it lapsed.
fn copy_of(leased: &LeasedJob) -> LeasedJob {
    LeasedJob { job: leased.job.clone(), lease: leased.lease.clone(), ..*leased }
}
