//! Every failure is retried on the schedule of its status: never early, and never more often than
//! the schedule allows.

use std::time::Duration;

use domain::clock::Timestamp;
use domain::event::{DropReason, EventKind};
use domain::outcome::{Fault, FaultKind, Outcome};
use domain::standing::Standing;
use harness::bounce::{DISABLED, FULL, MAINTENANCE, OK, bounce};
use harness::mail::outcome;
use harness::world::{DAY, HOUR, MS, World};

const JO: &str = "jo@example.com";

const LONG: [u32; 4] = [24, 48, 72, 168];
const SHORT: [u32; 4] = [1, 4, 12, 24];

#[tokio::test]
async fn a_disabled_mailbox_is_tried_after_24h_48h_72h_and_7d_then_inactive() {
    let world = World::new().await;
    fail_every_try(&world, DISABLED, LONG).await;
    let record = world.standing_record(JO).await.unwrap();
    assert_eq!((record.standing, record.until), (Standing::Inactive, None));
    assert_eq!(record.reason, "mailbox-disabled");
}

#[tokio::test]
async fn a_full_mail_system_is_tried_after_24h_48h_72h_and_7d_then_unavailable_for_30d() {
    let world = World::new().await;
    fail_every_try(&world, FULL, LONG).await;
    assert_eq!(unavailable_until(&world).await, world.now().plus(30 * DAY));
}

#[tokio::test]
async fn a_mail_system_in_maintenance_is_tried_after_1h_4h_12h_and_24h_then_unavailable_for_30d() {
    let world = World::new().await;
    fail_every_try(&world, MAINTENANCE, SHORT).await;
    assert_eq!(unavailable_until(&world).await, world.now().plus(30 * DAY));
}

#[tokio::test]
async fn a_job_is_not_tried_early_even_if_another_job_of_its_destination_is_due() {
    let world = World::new().await;
    let due_at_once = |recipient| {
        let mut bounce = bounce(recipient, "m1", FULL);
        bounce["occurred_at"] = "2026-11-01T00:00:00Z".into();
        bounce
    };
    let due = world
        .post_and_wait_until_due(due_at_once("sam@example.com"))
        .await;
    world.clock.advance(MS);
    world.post_and_wait_until_due(due_at_once(JO)).await;
    world.clock.set(due);
    assert_eq!(world.work().await, 1);
    world.clock.advance(MS);
    assert_eq!(world.work().await, 1);
}

#[tokio::test]
async fn the_first_delay_counts_from_when_the_bounce_happened() {
    let world = World::new().await;
    let mut reported_late = bounce(JO, "m1", MAINTENANCE);
    reported_late["occurred_at"] = world.now().to_string().into();
    world.clock.advance(HOUR / 2);
    let due = world.post_and_wait_until_due(reported_late).await;
    let reported = world.now();
    assert!(
        due < reported.plus(HOUR),
        "{due} is within an hour of {reported}"
    );
}

#[tokio::test]
async fn an_address_that_fails_three_schedules_in_a_row_becomes_inactive_if_others_there_get_mail()
{
    let world = World::new().await;
    for days in [30, 60] {
        fail_every_try(&world, MAINTENANCE, SHORT).await;
        let until = unavailable_until(&world).await;
        assert_eq!(until, world.now().plus(days * DAY));
        world.clock.set(until);
    }
    // Another address at the same mail system gets mail while the third job runs.
    world.post_bounce(bounce(JO, "m1", MAINTENANCE)).await;
    world
        .post_bounce(bounce("sam@example.com", "m1", MAINTENANCE))
        .await;
    world.mail.set_script(|attempt| {
        outcome(if attempt.recipient.as_str() == JO {
            MAINTENANCE
        } else {
            OK
        })
    });
    while world.job_if_any(JO).await.is_some() {
        world.clock.advance(HOUR);
        world.work().await;
    }
    assert_eq!(world.standing(JO).await, Standing::Inactive);
    assert_eq!(world.standing("sam@example.com").await, Standing::Active);
}

#[tokio::test]
async fn an_address_never_becomes_inactive_while_no_other_address_there_gets_mail() {
    let world = World::new().await;
    for days in [30, 60, 120, 180, 180] {
        fail_every_try(&world, MAINTENANCE, SHORT).await;
        let until = unavailable_until(&world).await;
        assert_eq!(
            until,
            world.now().plus(days * DAY),
            "the time doubles, up to a limit"
        );
        world.clock.set(until);
    }
}

#[tokio::test]
async fn a_delivery_resets_the_count_of_failed_schedules_in_a_row() {
    let world = World::new().await;
    fail_every_try(&world, MAINTENANCE, SHORT).await;
    world.clock.set(unavailable_until(&world).await);
    world
        .post_and_wait_until_due(bounce(JO, "between", MAINTENANCE))
        .await;
    world.mail.reply_with(OK);
    world.work().await;
    assert_eq!(world.standing_record(JO).await, None);

    fail_every_try(&world, MAINTENANCE, SHORT).await;
    assert_eq!(
        unavailable_until(&world).await,
        world.now().plus(30 * DAY),
        "the count starts again"
    );
}

#[tokio::test]
async fn a_job_past_its_maximum_age_ends_without_sending_as_if_its_last_try_had_failed() {
    let world = World::new().await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    world.clock.advance(30 * DAY);
    assert_eq!(world.work().await, 1);
    assert_eq!(world.mail.tried(), []);
    assert_eq!(world.standing(JO).await, Standing::Unavailable);
    assert_eq!(
        world.final_events().await,
        [dropped("m1", DropReason::Retired)]
    );
}

#[tokio::test]
async fn a_job_held_past_its_maximum_age_drops_its_messages_without_counting_against_the_address() {
    let world = World::new().await;
    world
        .post_and_wait_until_due(bounce(JO, "m1", DISABLED))
        .await;
    let relay_down = Fault::ours(FaultKind::Connect, "refused".to_owned());
    world
        .mail
        .set_script(move |_| Outcome::Unreachable(relay_down.clone()));
    assert_eq!(world.work().await, 1);
    let history = world.job(JO).await.job.head.history;
    assert!(
        history.last().unwrap().reply.contains("refused"),
        "the history shows why the job waits: {history:?}"
    );

    world.clock.advance(30 * DAY);
    assert_eq!(world.work().await, 1);
    assert_eq!(world.mail.tried().len(), 1, "nothing more was sent");
    assert_eq!(
        world.final_events().await,
        [dropped("m1", DropReason::GivenUp)]
    );
    assert_eq!(world.standing_record(JO).await, None);
}

/// Posts a bounce, and lets four tries fail in the same way. Checks that each try is possible when
/// it is due, and not a millisecond earlier. After the tries the job must have ended.
async fn fail_every_try(world: &World, reply: &str, hours: [u32; 4]) {
    let tried_before = world.mail.tried().len();
    let ended_before = world.final_events().await.len();
    world.mail.reply_with(reply);
    let mut last_try = world.now();
    world.post_bounce(bounce(JO, "m1", reply)).await;
    for (attempt, hours) in (1..).zip(hours) {
        let due = world.job(JO).await.due.unwrap();
        assert_within_jitter(due.since(last_try), hours * HOUR);

        world.clock.set(Timestamp::from_ms(due.ms() - 1));
        assert_eq!(
            world.work().await,
            0,
            "attempt {attempt} is not possible before it is due"
        );
        world.clock.advance(MS);
        assert_eq!(
            world.work().await,
            1,
            "attempt {attempt} is possible when it is due"
        );
        assert_eq!(world.mail.tried().last().unwrap().attempt, attempt);
        last_try = world.now();
    }
    assert_eq!(world.mail.tried().len(), tried_before + 4);
    assert!(world.job_if_any(JO).await.is_none(), "the job has ended");
    assert_eq!(
        world.final_events().await[ended_before..],
        [dropped("m1", DropReason::Retired)]
    );
}

/// Checks that a delay is not shorter than wanted, and at most a tenth longer.
fn assert_within_jitter(actual: Duration, wanted: Duration) {
    assert!(
        actual >= wanted && actual <= wanted.mul_f64(1.1),
        "{actual:?} is not {wanted:?} plus at most a tenth"
    );
}

async fn unavailable_until(world: &World) -> Timestamp {
    let record = world.standing_record(JO).await.unwrap();
    assert_eq!(record.standing, Standing::Unavailable);
    record.until.unwrap()
}

fn dropped(message: &str, reason: DropReason) -> (EventKind, String, Option<String>) {
    (
        EventKind::MessageDropped,
        message.to_owned(),
        Some(reason.as_str().to_owned()),
    )
}
