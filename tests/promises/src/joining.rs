//! All messages for an address wait in its single job. A message that joins the job changes neither
//! when nor how often the address is tried.

use domain::event::EventKind;
use domain::standing::Standing;
use harness::bounce::{FULL, MAINTENANCE, OK, TOO_BIG, UNKNOWN, bounce};
use harness::world::{DAY, HOUR, Settings, World};
use store::schedule::Answer;
use store::settle::{Settled, Settlement};

const JO: &str = "jo@example.com";

#[tokio::test]
async fn a_message_dropped_on_arrival_has_one_event_however_often_it_is_posted() {
    let world = World::new().await;
    let big = |message| bounce(JO, message, TOO_BIG);
    let posted = [
        big("m1"),
        big("m2"),
        big("m1"),
        bounce("sam@example.com", "m1", TOO_BIG),
    ];
    world.post_bounces(posted.into_iter()).await;
    assert_eq!(
        world.final_events().await.len(),
        3,
        "three messages in one batch"
    );
    for _ in 0..2 {
        assert_eq!(world.post_bounce(big("m1")).await, Answer::Dropped);
        world.clock.advance(DAY);
    }
    assert_eq!(world.final_events().await.len(), 3, "also on the next day");
    assert_eq!(world.post_bounce(big("m1")).await, Answer::Dropped);
    assert_eq!(world.final_events().await.len(), 4, "but not after that");
    assert!(
        matches!(
            world.post_bounce(bounce(JO, "m2", FULL)).await,
            Answer::Scheduled { .. }
        ),
        "a dropped message can still start a job"
    );
}

#[tokio::test]
async fn a_message_that_joins_a_job_changes_neither_due_time_nor_attempt_counter() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.mail.reply_with(FULL);
    world.work().await;
    let before = world.job(JO).await;

    world.clock.advance(HOUR);
    let answer = world.post_bounce(bounce(JO, "m2", MAINTENANCE)).await;
    assert_eq!(answer, Answer::Joined { due: before.due });
    let after = world.job(JO).await;
    assert_eq!((after.due, after.job.head), (before.due, before.job.head));
    assert_eq!(world.waiting(JO).await, ["m1", "m2"]);
}

#[tokio::test]
async fn a_message_that_joined_during_a_failed_attempt_waits_with_the_others() {
    let world = World::new().await;
    let settlement = attempt_while_another_joins(&world, FULL).await;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
    assert_eq!(world.waiting(JO).await, ["m1", "joined"]);
    assert_eq!(world.job(JO).await.job.head.attempt, 1);
}

#[tokio::test]
async fn a_message_that_joined_during_a_successful_attempt_is_sent_at_once() {
    let world = World::new().await;
    let settlement = attempt_while_another_joins(&world, OK).await;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
    let job = world.job(JO).await;
    assert_eq!(job.due, Some(world.now()));
    assert_eq!(job.job.head.attempt, 0, "the job has all attempts left");
    assert_eq!(
        world.events_of(EventKind::JobClosed).await,
        [],
        "the job has not ended yet"
    );

    assert_eq!(world.work().await, 1);
    assert_eq!(world.mail.messages(), ["m1", "joined"]);
    assert_eq!(world.events_of(EventKind::JobClosed).await.len(), 1);
}

#[tokio::test]
async fn a_message_that_joined_has_its_own_final_event_if_the_attempt_retires_the_address() {
    let world = World::new().await;
    let settlement = attempt_while_another_joins(&world, UNKNOWN).await;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(world.standing(JO).await, Standing::Inactive);
    assert_eq!(
        dropped(&world).await,
        [("m1", "retired"), ("joined", "retired")].map(owned)
    );
}

#[tokio::test]
async fn a_message_that_joined_stays_in_a_job_that_is_given_back_untried() {
    let world = World::new().await;
    let due = world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    let leased = world.claim_one().await;
    world.post_bounce(bounce(JO, "joined", FULL)).await;
    assert!(world.release(&leased.lease).await);
    assert_eq!(world.waiting(JO).await, ["m1", "joined"]);
    assert_eq!(world.job(JO).await.due, Some(due));
}

#[tokio::test]
async fn a_message_is_accepted_once_while_its_job_waits_or_is_leased() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    assert_eq!(
        world.post_bounce(bounce(JO, "m1", FULL)).await,
        Answer::Duplicate
    );
    let leased = world.claim_one().await;
    assert_eq!(
        world.post_bounce(bounce(JO, "m1", FULL)).await,
        Answer::Duplicate
    );
    assert_eq!(
        world.post_bounce(bounce(JO, "m2", FULL)).await,
        Answer::Joined { due: None }
    );
    assert_eq!(
        world.post_bounce(bounce(JO, "m2", FULL)).await,
        Answer::Duplicate
    );
    assert_eq!(leased.job.messages.len(), 1);
    assert_eq!(world.waiting(JO).await, ["m1", "m2"]);
}

#[tokio::test]
async fn beyond_max_messages_the_newest_replaces_the_oldest_with_an_event() {
    let world = World::with(Settings {
        max_messages: 3,
        ..Settings::default()
    })
    .await;
    for message in ["m1", "m2", "m3", "m4", "m5"] {
        world.post_bounce(bounce(JO, message, FULL)).await;
    }
    assert_eq!(world.waiting(JO).await, ["m3", "m4", "m5"]);
    assert_eq!(
        dropped(&world).await,
        [("m1", "replaced"), ("m2", "replaced")].map(owned)
    );
}

#[tokio::test]
async fn the_limit_of_messages_never_drops_one_that_an_attempt_is_sending() {
    let world = World::with(Settings {
        max_messages: 2,
        ..Settings::default()
    })
    .await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    world
        .post_and_wait_until_due(bounce("other@example.com", "m1", FULL))
        .await;
    world
        .clock
        .set(world.job(JO).await.due.unwrap().max(world.now()));
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    let leased = world
        .claim()
        .await
        .into_iter()
        .find(|leased| leased.job.id.recipient.as_str() == JO)
        .unwrap();
    for message in ["j1", "j2", "j3", "j4"] {
        world.post_bounce(bounce(JO, message, FULL)).await;
    }
    assert_eq!(
        world.waiting(JO).await,
        ["m1", "m2", "j3", "j4"],
        "the messages that the worker has are untouched"
    );

    let settlement = world.attempt(leased).await;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
    assert_eq!(world.mail.messages(), ["m1", "m2"]);
    assert_eq!(world.waiting(JO).await, ["j3", "j4"]);
    assert_eq!(
        dropped(&world).await,
        [("j1", "replaced"), ("j2", "replaced")].map(owned)
    );
}

#[tokio::test]
async fn a_permanent_status_retires_an_address_at_once_with_one_final_event_per_message() {
    let world = World::new().await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    let due = world.job(JO).await.due.unwrap();
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    let Answer::Retired(record) = world.post_bounce(bounce(JO, "m3", UNKNOWN)).await else {
        panic!("5.1.1 is permanent")
    };
    assert_eq!(record.standing, Standing::Inactive);
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(
        dropped(&world).await,
        [("m1", "retired"), ("m2", "retired"), ("m3", "retired")].map(owned)
    );

    // The platform reports it twice, and a soft bounce as well. The address is already retired.
    for (message, reply) in [("m3", UNKNOWN), ("m4", FULL)] {
        assert_eq!(
            world.post_bounce(bounce(JO, message, reply)).await,
            Answer::Retired(record.clone())
        );
    }
    assert_eq!(dropped(&world).await.len(), 3);
    assert_eq!(world.events_of(EventKind::AddressRetired).await.len(), 1);
    world.clock.set(due);
    assert_eq!(world.work().await, 0);
}

#[tokio::test]
async fn a_permanent_status_for_a_waiting_message_ends_it_once() {
    let world = World::new().await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    world.post_bounce(bounce(JO, "m1", UNKNOWN)).await;
    assert_eq!(dropped(&world).await, [("m1", "retired")].map(owned));
}

#[tokio::test]
async fn a_permanent_status_during_an_attempt_makes_its_settle_void() {
    let world = World::new().await;
    let settlement = {
        world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
        let leased = world.claim_one().await;
        world.post_bounce(bounce(JO, "m2", UNKNOWN)).await;
        world.mail.reply_with(FULL);
        world.attempt(leased).await
    };
    let events = world.events().await;
    assert_eq!(world.settle(&settlement).await, Settled::Void);
    assert_eq!(world.events().await, events);
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(world.standing(JO).await, Standing::Inactive);
    assert_eq!(
        dropped(&world).await,
        [("m1", "retired"), ("m2", "retired")].map(owned)
    );
}

/// A job whose first attempt is answered with `reply` while another message joins it. The attempt
/// is not settled yet.
async fn attempt_while_another_joins(world: &World, reply: &str) -> Settlement {
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.mail.reply_with(reply);
    let settlement = world.attempt(world.claim_one().await).await;
    assert_eq!(
        world.post_bounce(bounce(JO, "joined", FULL)).await,
        Answer::Joined { due: None }
    );
    settlement
}

/// The messages dropped so far, in order, with the reason.
async fn dropped(world: &World) -> Vec<(String, String)> {
    let events = world.events_of(EventKind::MessageDropped).await;
    events
        .into_iter()
        .map(|event| (event.message.unwrap(), event.reason.unwrap()))
        .collect()
}

fn owned((message, reason): (&str, &str)) -> (String, String) {
    (message.to_owned(), reason.to_owned())
}
