//! A message past its expiry is dropped with an event when its job is claimed. It is never sent
//! late.

use domain::clock::Timestamp;
use domain::event::EventKind;
use domain::standing::Standing;
use harness::bounce::{FULL, bounce};
use harness::world::{HOUR, MS, World};
use serde_json::Value;

const JO: &str = "jo@example.com";

fn expiring(message: &str, at: Timestamp) -> Value {
    let mut bounce = bounce(JO, message, FULL);
    bounce["expires_at"] = at.to_string().into();
    bounce
}

#[tokio::test]
async fn an_expired_message_is_dropped_and_the_other_messages_are_sent() {
    let world = World::new().await;
    world
        .post_bounce(expiring("old", world.now().plus(HOUR)))
        .await;
    world.post_bounce(bounce(JO, "new", FULL)).await;
    world.clock.set(world.job(JO).await.due.unwrap());
    world.work().await;
    assert_eq!(world.mail.messages(), ["new"]);
    let ends = world.final_events().await;
    assert_eq!(ends[0], (EventKind::MessageExpired, "old".to_owned(), None));
    assert_eq!(
        ends[1],
        (EventKind::MessageDelivered, "new".to_owned(), None)
    );
    assert_eq!(ends.len(), 2);
}

#[tokio::test]
async fn a_message_expires_at_its_instant_and_not_before() {
    let world = World::new().await;
    let due = world
        .post_and_wait_until_due(bounce(JO, "first", FULL))
        .await;
    world.post_bounce(expiring("at", due)).await;
    world.post_bounce(expiring("after", due.plus(MS))).await;
    world.work().await;
    assert_eq!(world.mail.messages(), ["first", "after"]);
}

#[tokio::test]
async fn a_job_whose_messages_have_all_expired_closes_and_the_address_keeps_its_standing() {
    let world = World::new().await;
    world
        .post_and_wait_until_due(expiring("m1", world.now().plus(HOUR)))
        .await;
    assert_eq!(world.work().await, 1);
    assert_eq!(world.mail.tried(), []);
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(world.standing(JO).await, Standing::Active);
    assert_eq!(world.events_of(EventKind::JobClosed).await.len(), 1);

    // No message was delivered, so a bounce from before is not stale.
    let mut earlier = bounce(JO, "m2", FULL);
    earlier["occurred_at"] = world.now().to_string().into();
    world.post_and_wait_until_due(earlier).await;
}
