//! An idle worker sleeps until the next planned visit of a shard. A job that becomes due before
//! that is found within `poll_max`.

// These tests measure real time, by the servers' clock.

use std::time::Duration;

use config::model::Config;
use domain::clock::{Clock, Timestamp};
use domain::destination::Destination;
use domain::event::EventKind;
use harness::bounce::{FULL, OK, bounce};
use harness::wait::eventually;
use harness::world::{DAY, MS, Settings, World};
use store::schedule::Answer;
use system::clock::SystemClock;

/// How much later than expected things may happen on a busy machine.
const NOISE: Duration = Duration::from_secs(3);

/// Jobs that become due one after the other.
const JOBS: usize = 5;

#[tokio::test]
async fn a_job_that_is_due_before_the_next_planned_visit_is_found_within_poll_max() {
    let poll_max = Config::embedded().worker.poll_max;
    assert_eq!(poll_max, 250 * MS, "the default");
    let world = World::with(Settings {
        start: SystemClock.now(),
        ..Settings::default()
    })
    .await;
    world.mail.reply_with(OK);
    for n in 0..JOBS {
        world
            .post_bounce(bounce(&format!("late@host{n}.example"), "m1", FULL))
            .await;
    }
    let store = world.store_by_real_time().await;
    let worker = world.start_worker_on(&store, |settings| settings.poll_max = poll_max);
    for n in 0..JOBS {
        // The worker has just found the previous job, and now waits for `poll_max`.
        due_now(&world, &format!("early@host{n}.example")).await;
        let late = delivered_after(&world, n).await;
        assert!(late <= poll_max + NOISE, "job {n} was found after {late:?}");
    }
    worker.stopped().await;
}

#[tokio::test]
async fn a_worker_wakes_at_the_planned_time_and_not_before() {
    let held_for = Duration::from_secs(1);
    let world = World::with(Settings {
        start: SystemClock.now(),
        ..Settings::default()
    })
    .await;
    world.mail.reply_with(OK);
    let due = due_now(&world, "jo@example.com").await;
    world
        .store
        .hold(
            &Destination::named("example.com"),
            Some(due.plus(held_for)),
            "not yet",
        )
        .await
        .unwrap();
    let store = world.store_by_real_time().await;
    let worker = world.start_worker_on(&store, |settings| settings.poll_max = DAY);
    let late = delivered_after(&world, 0).await;
    assert!(
        (held_for..held_for + NOISE).contains(&late),
        "the job was found after {late:?}"
    );
    worker.stopped().await;
}

/// Posts a bounce whose job is due at once.
async fn due_now(world: &World, address: &str) -> Timestamp {
    let now = SystemClock.now();
    world.clock.set(now);
    let mut posted = bounce(address, "m1", FULL);
    posted["occurred_at"] = Timestamp::from_ms(now.ms() - (2 * DAY).as_millis() as i64)
        .to_string()
        .into();
    assert_eq!(
        world.post_bounce(posted).await,
        Answer::Scheduled { due: now }
    );
    now
}

/// How long after its due time the delivery with this number was claimed.
async fn delivered_after(world: &World, number: usize) -> Duration {
    let delivered = eventually("the delivery", async || {
        world
            .events_of(EventKind::MessageDelivered)
            .await
            .into_iter()
            .nth(number)
    })
    .await;
    Duration::from_millis(
        delivered
            .late_ms
            .unwrap()
            .try_into()
            .expect("a job is never claimed before it is due"),
    )
}
