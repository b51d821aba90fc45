//! A bounce from before an address's last delivery starts nothing, so that nobody gets a message
//! twice.

use domain::clock::Timestamp;
use domain::standing::Standing;
use harness::bounce::{FULL, OK, UNKNOWN, bounce};
use harness::world::{HOUR, MS, World};
use serde_json::Value;
use store::schedule::Answer;

const JO: &str = "jo@example.com";

/// A world in which mail for Jo has just got through.
async fn after_a_delivery() -> World {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    assert_eq!(world.work().await, 1);
    world
}

fn at(mut bounce: Value, occurred: Timestamp) -> Value {
    bounce["occurred_at"] = occurred.to_string().into();
    bounce
}

#[tokio::test]
async fn a_bounce_from_before_the_last_delivery_is_stale() {
    let world = after_a_delivery().await;
    let delivered = world.now();
    world.clock.advance(HOUR);
    for reply in [FULL, UNKNOWN] {
        assert_eq!(
            world.take_in(at(bounce(JO, "m1", reply), delivered)).await,
            Answer::Stale,
            "{reply}"
        );
    }
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(world.standing(JO).await, Standing::Active);
}

#[tokio::test]
async fn a_delivery_counts_also_where_the_next_message_of_the_attempt_retires_the_address() {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    world.take_in(bounce(JO, "m2", FULL)).await;
    world.mail.says_in_turn(&[OK, UNKNOWN]);
    assert_eq!(world.work().await, 1);
    assert_eq!(world.standing(JO).await, Standing::Inactive);
    let delivered = world.now();
    world.clock.advance(HOUR);
    assert_eq!(
        world.take_in(at(bounce(JO, "m1", FULL), delivered)).await,
        Answer::Stale
    );
}

#[tokio::test]
async fn a_bounce_from_after_the_last_delivery_starts_a_job() {
    let world = after_a_delivery().await;
    let news = at(bounce(JO, "m2", FULL), world.now().plus(MS));
    world.clock.advance(HOUR);
    assert!(matches!(
        world.take_in(news).await,
        Answer::Scheduled { .. }
    ));
}

#[tokio::test]
async fn a_bounce_that_does_not_say_when_it_happened_counts_as_news() {
    let world = after_a_delivery().await;
    assert!(matches!(
        world.take_in(bounce(JO, "m2", FULL)).await,
        Answer::Scheduled { .. }
    ));
}

#[tokio::test]
async fn a_delivery_to_one_address_makes_nobody_elses_bounces_stale() {
    let world = after_a_delivery().await;
    let theirs = at(bounce("sam@example.com", "m1", FULL), world.now());
    assert!(matches!(
        world.take_in(theirs).await,
        Answer::Scheduled { .. }
    ));
}
