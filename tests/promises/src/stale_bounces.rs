//! A bounce from before the last delivery to its address starts no job, so that no message is sent
//! twice.

use domain::clock::Timestamp;
use domain::standing::Standing;
use harness::bounce::{FULL, OK, UNKNOWN, bounce};
use harness::world::{HOUR, MS, World};
use serde_json::Value;
use store::schedule::Answer;

const JO: &str = "jo@example.com";

/// A world in which mail for Jo has just been delivered.
async fn world_after_a_delivery() -> World {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    assert_eq!(world.work().await, 1);
    world
}

fn occurring_at(mut bounce: Value, occurred: Timestamp) -> Value {
    bounce["occurred_at"] = occurred.to_string().into();
    bounce
}

#[tokio::test]
async fn a_bounce_from_before_the_last_delivery_is_stale() {
    let world = world_after_a_delivery().await;
    let delivered = world.now();
    world.clock.advance(HOUR);
    for reply in [FULL, UNKNOWN] {
        assert_eq!(
            world
                .post_bounce(occurring_at(bounce(JO, "m1", reply), delivered))
                .await,
            Answer::Stale,
            "{reply}"
        );
    }
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(world.standing(JO).await, Standing::Active);
}

#[tokio::test]
async fn a_delivery_counts_even_if_the_next_message_of_the_attempt_retires_the_address() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    world.mail.reply_in_turn(&[OK, UNKNOWN]);
    assert_eq!(world.work().await, 1);
    assert_eq!(world.standing(JO).await, Standing::Inactive);
    let delivered = world.now();
    world.clock.advance(HOUR);
    assert_eq!(
        world
            .post_bounce(occurring_at(bounce(JO, "m1", FULL), delivered))
            .await,
        Answer::Stale
    );
}

#[tokio::test]
async fn a_bounce_from_after_the_last_delivery_starts_a_job() {
    let world = world_after_a_delivery().await;
    let news = occurring_at(bounce(JO, "m2", FULL), world.now().plus(MS));
    world.clock.advance(HOUR);
    assert!(matches!(
        world.post_bounce(news).await,
        Answer::Scheduled { .. }
    ));
}

#[tokio::test]
async fn a_bounce_without_a_time_counts_as_new() {
    let world = world_after_a_delivery().await;
    assert!(matches!(
        world.post_bounce(bounce(JO, "m2", FULL)).await,
        Answer::Scheduled { .. }
    ));
}

#[tokio::test]
async fn a_delivery_to_one_address_makes_no_bounce_of_another_address_stale() {
    let world = world_after_a_delivery().await;
    let theirs = occurring_at(bounce("sam@example.com", "m1", FULL), world.now());
    assert!(matches!(
        world.post_bounce(theirs).await,
        Answer::Scheduled { .. }
    ));
}
