//! An attempt tries the oldest message. What that one meets decides about the rest.

use domain::event::{DropReason, EventKind};
use domain::outcome::{Fault, FaultKind, Outcome};
use domain::standing::Standing;
use harness::bounce::{FULL, FULL_FOR_GOOD, MAINTENANCE, OK, TOO_BIG, UNKNOWN, bounce};
use harness::world::{DAY, HOUR, World};

const JO: &str = "jo@example.com";

/// A world in which three messages wait for Jo, and the first attempt is due.
async fn with_three_messages() -> World {
    let world = World::new().await;
    for message in ["m1", "m2", "m3"] {
        world.take_in(bounce(JO, message, FULL)).await;
    }
    world.clock.set(world.job(JO).await.due.unwrap());
    world
}

#[tokio::test]
async fn a_delivered_probe_releases_the_rest_at_once() {
    let world = with_three_messages().await;
    world.work().await;
    assert_eq!(world.mail.messages(), ["m1", "m2", "m3"]);
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(world.events_of(EventKind::MessageDelivered).await.len(), 3);
    assert_eq!(world.events_of(EventKind::JobClosed).await.len(), 1);
}

#[tokio::test]
async fn where_the_probe_is_deferred_the_rest_is_not_tried() {
    let world = with_three_messages().await;
    world.mail.says(FULL);
    world.work().await;
    assert_eq!(world.mail.messages(), ["m1"]);
    assert_eq!(world.waiting(JO).await, ["m1", "m2", "m3"]);
    assert_eq!(world.job(JO).await.job.head.attempt, 1);
}

#[tokio::test]
async fn a_message_that_nobody_would_take_is_dropped_and_the_next_is_the_probe() {
    let world = with_three_messages().await;
    world.mail.says_in_turn(&[TOO_BIG, FULL]);
    world.work().await;
    assert_eq!(world.mail.messages(), ["m1", "m2"]);
    assert_eq!(world.waiting(JO).await, ["m2", "m3"]);
    let given_up = Some(DropReason::GivenUp.as_str().to_owned());
    assert_eq!(
        world.final_events().await,
        [(EventKind::MessageDropped, "m1".to_owned(), given_up)]
    );
}

#[tokio::test]
async fn a_job_whose_messages_nobody_would_take_closes_and_the_address_stays_active() {
    let world = with_three_messages().await;
    world.mail.says(TOO_BIG);
    world.work().await;
    assert_eq!(world.mail.messages(), ["m1", "m2", "m3"]);
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(world.standing(JO).await, Standing::Active);
}

#[tokio::test]
async fn a_failure_after_a_delivery_is_a_new_outage_with_the_whole_schedule_before_it() {
    let world = with_three_messages().await;
    world.mail.says(FULL);
    world.work().await;
    world.clock.set(world.job(JO).await.due.unwrap());

    world.mail.says_in_turn(&[OK, MAINTENANCE]);
    world.work().await;
    let job = world.job(JO).await;
    assert_eq!(world.waiting(JO).await, ["m2", "m3"]);
    assert_eq!(
        (job.job.head.attempt, job.job.head.policy.as_str()),
        (0, "system-not-accepting")
    );
    assert_eq!(
        job.job.head.created,
        world.now(),
        "its age counts from here"
    );
    let wait = job.due.unwrap().since(world.now());
    assert!(
        wait >= HOUR && wait <= HOUR.mul_f64(1.1),
        "{wait:?} is the first delay of 4.3.2"
    );
}

#[tokio::test]
async fn a_permanent_failure_after_a_delivery_retires_the_address_all_the_same() {
    let world = with_three_messages().await;
    world.mail.says_in_turn(&[OK, UNKNOWN]);
    world.work().await;
    assert_eq!(world.standing(JO).await, Standing::Inactive);
    let kinds: Vec<EventKind> = world
        .final_events()
        .await
        .into_iter()
        .map(|(kind, ..)| kind)
        .collect();
    assert_eq!(
        kinds,
        [
            EventKind::MessageDelivered,
            EventKind::MessageDropped,
            EventKind::MessageDropped
        ]
    );
}

#[tokio::test]
async fn a_mailbox_that_fills_up_after_a_delivery_is_unavailable_for_the_first_time() {
    let world = World::new().await;
    world.take_in(bounce(JO, "m0", FULL_FOR_GOOD)).await;
    world.clock.advance(31 * DAY);
    for message in ["m1", "m2"] {
        world.take_in(bounce(JO, message, FULL)).await;
    }
    world.clock.set(world.job(JO).await.due.unwrap());
    world.mail.says_in_turn(&[OK, FULL_FOR_GOOD]);
    world.work().await;
    let record = world.standing_record(JO).await.unwrap();
    assert_eq!(
        (record.standing, record.strikes),
        (Standing::Unavailable, 1),
        "the delivery has cleared the count"
    );
    assert_eq!(record.until, Some(world.now().plus(30 * DAY)));
}

#[tokio::test]
async fn trouble_of_our_own_spends_no_attempt_and_never_counts_against_the_address() {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    let relay_down = Fault::ours(FaultKind::Connect, "refused".to_owned());
    world
        .mail
        .answers(move |_| Outcome::Unreachable(relay_down.clone()));
    let created = world.now();
    for _ in 0..20 {
        assert_eq!(world.work().await, 1);
        let job = world.job(JO).await;
        assert_eq!(job.job.head.attempt, 0);
        world.clock.set(job.due.unwrap());
    }
    assert!(
        world.now() < created.plus(DAY),
        "it is looked at again soon"
    );
    world.mail.says(OK);
    world.work().await;
    assert_eq!(
        world.mail.tried().last().unwrap().attempt,
        1,
        "the first attempt that counts"
    );
}
