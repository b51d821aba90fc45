//! A job has at most one valid lease. A call with a stale token changes nothing and is answered as
//! stale.

use std::collections::HashSet;

use domain::event::EventKind;
use domain::pace::Pace;
use futures::future::join_all;
use harness::bounce::{FULL, OK, bounce};
use harness::world::{DAY, LEASE, MS, Settings, World};
use store::claim::{ClaimBounds, LeasedJob};
use store::lease::Extended;
use store::settle::{SettleCall, Settled};

const JO: &str = "jo@example.com";

#[tokio::test]
async fn a_lapsed_job_can_be_claimed_again_with_an_exact_attempt_counter() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.mail.reply_with(FULL);
    world.work().await;
    world.clock.set(world.job(JO).await.due.unwrap());

    let first = world.claim_one().await;
    world.clock.advance(LEASE - MS);
    assert_eq!(
        world.claim().await.len(),
        0,
        "the lease lasts until its deadline"
    );
    world.clock.advance(MS);
    let second = world.claim_one().await;
    assert_eq!(second.job, first.job);
    assert_eq!(
        second.job.head.attempt, 1,
        "one attempt was settled, and one lapsed"
    );
    assert!(second.lease.token > first.lease.token);
    assert_eq!(world.events_of(EventKind::JobLapsed).await.len(), 1);
}

#[tokio::test]
async fn a_call_with_a_stale_token_changes_nothing_and_is_answered_as_stale() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    let first = world.claim_one().await;
    world.clock.advance(LEASE);
    let second = world.claim_one().await;
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    let (job, events) = (world.job(JO).await, world.events().await);

    for reply in [OK, FULL, "550 5.1.1 No such user"] {
        world.mail.reply_with(reply);
        let settlement = world.attempt(copy_of(&first)).await;
        assert_eq!(world.settle(&settlement).await, Settled::Stale, "{reply}");
    }
    assert!(!world.release(&first.lease).await);
    assert_eq!(world.extend(&first.lease).await, Extended::Lapsed);

    let now = world.job(JO).await;
    assert_eq!(
        (now.job, now.due, now.leased_until),
        (job.job, job.due, job.leased_until)
    );
    assert_eq!(world.events().await, events);
    assert_eq!(world.standing_record(JO).await, None);

    world.mail.reply_with(OK);
    let settlement = world.attempt(second).await;
    assert_eq!(
        world.settle(&settlement).await,
        Settled::Done,
        "the valid token still counts"
    );
}

#[tokio::test]
async fn a_repeated_settle_call_gets_the_same_answer_and_changes_nothing() {
    for reply in [OK, FULL, "550 5.1.1 No such user"] {
        let world = World::new().await;
        world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
        world.mail.reply_with(reply);
        let settlement = world.attempt(world.claim_one().await).await;
        let call = SettleCall::unique();
        let batch = [settlement.clone()];
        assert_eq!(
            world.store.settle(call, &batch).await.unwrap().settled,
            [Settled::Done]
        );
        let (due, events) = (
            world.job_if_any(JO).await.map(|job| job.due),
            world.events().await,
        );

        assert_eq!(
            world.store.settle(call, &batch).await.unwrap().settled,
            [Settled::Done],
            "{reply}: the same call"
        );
        let another = [settlement.clone(), settlement];
        assert_eq!(
            world.settle_all(&another).await,
            [Settled::Stale; 2],
            "{reply}: another call"
        );
        assert_eq!(world.job_if_any(JO).await.map(|job| job.due), due);
        assert_eq!(world.events().await, events);
    }
}

#[tokio::test]
async fn a_job_that_is_twice_in_one_batch_is_settled_once() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    let settlement = world.attempt(world.claim_one().await).await;
    let settled = world.settle_all(&[settlement.clone(), settlement]).await;
    assert_eq!(settled, [Settled::Done, Settled::Stale]);
    assert_eq!(world.final_events().await.len(), 1);
}

#[tokio::test]
async fn an_extended_lease_lasts_until_its_new_deadline() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    let leased = world.claim_one().await;
    world.clock.advance(LEASE - MS);
    for _ in 0..2 {
        assert_eq!(
            world.extend(&leased.lease).await,
            Extended::Yes(Vec::new()),
            "a repeated extension changes nothing"
        );
    }
    world.clock.advance(LEASE - MS);
    assert_eq!(world.claim().await.len(), 0);
    let settlement = world.attempt(leased).await;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
}

#[tokio::test]
async fn the_jobs_of_one_claim_are_settled_independently() {
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        world
            .post_bounce(bounce(&format!("{name}@example.com"), "m1", FULL))
            .await;
    }
    world.clock.advance(3 * DAY);
    let mut jobs = world.claim().await;
    let crashed = jobs.pop().unwrap();
    let settlement = world.attempt(jobs.pop().unwrap()).await;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
    assert!(world.release(&jobs[0].lease).await);
    assert_eq!(world.settle(&settlement).await, Settled::Stale);
    assert!(!world.release(&jobs[0].lease).await);

    world.clock.advance(LEASE);
    let ids: HashSet<_> = world
        .claim()
        .await
        .into_iter()
        .map(|leased| leased.job.id.key())
        .collect();
    assert_eq!(
        ids,
        HashSet::from([crashed.job.id.key(), jobs[0].job.id.key()]),
        "one job lapsed, one was given back"
    );
}

#[tokio::test]
async fn an_old_lease_has_no_effect_on_the_new_job_of_a_reinstated_address() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    let old = world.claim_one().await;
    world
        .post_bounce(bounce(JO, "m2", "552 5.2.2 Mailbox full"))
        .await;
    world.clock.advance(31 * DAY);
    world.post_and_wait_until_due(bounce(JO, "m3", FULL)).await;
    let (job, events) = (world.job(JO).await, world.events().await);

    let settlement = world.attempt(copy_of(&old)).await;
    assert_eq!(world.settle(&settlement).await, Settled::Void);
    assert!(!world.release(&old.lease).await);
    assert_eq!(world.events().await, events);
    assert_eq!(
        (world.job(JO).await.due, world.waiting(JO).await),
        (job.due, vec!["m3".to_owned()])
    );
    assert_eq!(world.work().await, 1, "the new job is claimed once");
}

#[tokio::test]
async fn workers_that_claim_at_the_same_time_never_get_the_same_job() {
    let world = World::with(Settings {
        pace: Pace::unbounded(),
        ..Settings::default()
    })
    .await;
    for n in 0..200 {
        world
            .post_bounce(bounce(
                &format!("user{n}@host{}.example", n % 5),
                "m1",
                FULL,
            ))
            .await;
    }
    world.clock.advance(LEASE * 60 * 48);
    let bounds = ClaimBounds {
        batch: 3,
        share: 2,
        lease: LEASE,
        unproven: usize::MAX,
    };
    let claims = (0..400).map(|n| world.store.claim(n % world.store.shards(), bounds));
    let claimed = join_all(claims)
        .await
        .into_iter()
        .flat_map(|claimed| claimed.unwrap().jobs);
    let ids: Vec<String> = claimed.map(|leased| leased.job.id.key()).collect();
    assert_eq!(ids.len(), 200);
    assert_eq!(
        ids.iter().collect::<HashSet<_>>().len(),
        200,
        "each job was claimed once"
    );
}

/// A copy of a leased job, for a worker that does not know yet that its lease has lapsed.
fn copy_of(leased: &LeasedJob) -> LeasedJob {
    LeasedJob {
        job: leased.job.clone(),
        lease: leased.lease.clone(),
        ..*leased
    }
}
