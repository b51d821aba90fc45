//! An attempt tries the oldest message first. The result of that message decides about the others.

use domain::event::{DropReason, EventKind};
use domain::outcome::{Fault, FaultKind, Outcome};
use domain::standing::Standing;
use harness::bounce::{FULL, FULL_FOR_GOOD, MAINTENANCE, OK, TOO_BIG, UNKNOWN, bounce};
use harness::world::{DAY, HOUR, World};

const JO: &str = "jo@example.com";

/// A world in which three messages wait for Jo, and the first attempt is due.
async fn world_with_three_messages() -> World {
    let world = World::new().await;
    for message in ["m1", "m2", "m3"] {
        world.post_bounce(bounce(JO, message, FULL)).await;
    }
    world.clock.set(world.job(JO).await.due.unwrap());
    world
}

#[tokio::test]
async fn after_the_first_message_is_delivered_the_others_follow_at_once() {
    let world = world_with_three_messages().await;
    world.work().await;
    assert_eq!(world.mail.messages(), ["m1", "m2", "m3"]);
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(world.events_of(EventKind::MessageDelivered).await.len(), 3);
    assert_eq!(world.events_of(EventKind::JobClosed).await.len(), 1);
}

#[tokio::test]
async fn if_the_first_message_is_deferred_the_others_are_not_tried() {
    let world = world_with_three_messages().await;
    world.mail.reply_with(FULL);
    world.work().await;
    assert_eq!(world.mail.messages(), ["m1"]);
    assert_eq!(world.waiting(JO).await, ["m1", "m2", "m3"]);
    assert_eq!(world.job(JO).await.job.head.attempt, 1);
}

#[tokio::test]
async fn a_message_that_no_server_would_accept_is_dropped_and_the_next_is_tried() {
    let world = world_with_three_messages().await;
    world.mail.reply_in_turn(&[TOO_BIG, FULL]);
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
async fn if_no_server_would_accept_any_message_the_job_closes_and_the_address_stays_active() {
    let world = world_with_three_messages().await;
    world.mail.reply_with(TOO_BIG);
    world.work().await;
    assert_eq!(world.mail.messages(), ["m1", "m2", "m3"]);
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(world.standing(JO).await, Standing::Active);
}

#[tokio::test]
async fn a_failure_after_a_delivery_starts_the_whole_schedule_again() {
    let world = world_with_three_messages().await;
    world.mail.reply_with(FULL);
    world.work().await;
    world.clock.set(world.job(JO).await.due.unwrap());

    world.mail.reply_in_turn(&[OK, MAINTENANCE]);
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
        "the age of the job counts from here"
    );
    let wait = job.due.unwrap().since(world.now());
    assert!(
        wait >= HOUR && wait <= HOUR.mul_f64(1.1),
        "{wait:?} is the first delay of 4.3.2"
    );
}

#[tokio::test]
async fn a_permanent_failure_after_a_delivery_still_retires_the_address() {
    let world = world_with_three_messages().await;
    world.mail.reply_in_turn(&[OK, UNKNOWN]);
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
async fn a_mailbox_that_becomes_full_after_a_delivery_counts_as_unavailable_for_the_first_time() {
    let world = World::new().await;
    world.post_bounce(bounce(JO, "m0", FULL_FOR_GOOD)).await;
    world.clock.advance(31 * DAY);
    for message in ["m1", "m2"] {
        world.post_bounce(bounce(JO, message, FULL)).await;
    }
    world.clock.set(world.job(JO).await.due.unwrap());
    world.mail.reply_in_turn(&[OK, FULL_FOR_GOOD]);
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
async fn a_problem_on_our_side_spends_no_attempt_and_never_counts_against_the_address() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    let relay_down = Fault::ours(FaultKind::Connect, "refused".to_owned());
    world
        .mail
        .set_script(move |_| Outcome::Unreachable(relay_down.clone()));
    let created = world.now();
    for _ in 0..20 {
        assert_eq!(world.work().await, 1);
        let job = world.job(JO).await;
        assert_eq!(job.job.head.attempt, 0);
        world.clock.set(job.due.unwrap());
    }
    assert!(
        world.now() < created.plus(DAY),
        "the job is tried again soon"
    );
    world.mail.reply_with(OK);
    world.work().await;
    assert_eq!(
        world.mail.tried().last().unwrap().attempt,
        1,
        "the first attempt that counts"
    );
}
