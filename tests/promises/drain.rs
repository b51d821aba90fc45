//! A worker that is told to stop takes nothing more, lets attempts under way end within the grace, gives the rest back,
//! and loses nothing. While an attempt goes on, its lease does not run out.

use std::time::Duration;

use harness::bounce::{FULL, UNKNOWN, bounce};
use harness::wait::eventually;
use harness::world::{LEASE, MS, World};
use shared::event::EventKind;

const JO: &str = "jo@example.com";

#[tokio::test]
async fn a_stopped_worker_lets_attempts_in_flight_end_and_claims_nothing_more() {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    world.mail.hold();
    let worker = world.start_worker(|_| {});
    world.mail.has_been_tried(1).await;

    worker.stop();
    let stopped = tokio::spawn(worker.stopped());
    world.take_in_and_wait(bounce("sam@example.com", "m1", FULL)).await;
    world.mail.let_go();
    stopped.await.unwrap();
    assert!(world.job_if_any(JO).await.is_none(), "its attempt was settled");
    assert_eq!(world.final_events().await, [(EventKind::MessageDelivered, "m1".to_owned(), None)]);

    let left = world.job("sam@example.com").await;
    assert_eq!((left.leased_until, left.job.head.attempt), (None, 0), "it waits for another worker");
}

#[tokio::test]
async fn what_is_not_finished_within_the_grace_is_given_back_untried() {
    let world = World::new().await;
    let due = world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    world.take_in(bounce(JO, "m2", FULL)).await;
    world.mail.hold();
    let worker = world.start_worker(|settings| settings.grace = MS);
    world.mail.has_been_tried(1).await;
    worker.stopped().await;

    let job = world.job(JO).await;
    assert_eq!((job.due, job.leased_until, job.job.head.attempt), (Some(due), None, 0));
    assert_eq!(world.waiting(JO).await, ["m1", "m2"]);
    assert_eq!(world.final_events().await, []);

    world.mail.let_go();
    assert_eq!(world.work().await, 1, "another worker has it at once");
    assert_eq!(world.final_events().await.len(), 2);
}

#[tokio::test]
async fn what_got_through_before_an_attempt_was_cut_off_is_not_sent_again() {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    world.take_in(bounce(JO, "m2", FULL)).await;
    world.mail.hold_after(1);
    let worker = world.start_worker(|settings| settings.grace = MS);
    world.mail.has_been_tried(2).await;
    worker.stopped().await;
    assert_eq!(world.final_events().await, [(EventKind::MessageDelivered, "m1".to_owned(), None)]);
    assert_eq!(world.waiting(JO).await, ["m2"]);

    world.mail.let_go();
    assert_eq!(world.work().await, 1, "another worker has the rest at once");
    assert_eq!(world.mail.messages(), ["m1", "m2", "m2"]);
}

#[tokio::test]
async fn what_got_through_in_an_attempt_that_takes_too_long_is_not_sent_again() {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    world.take_in(bounce(JO, "m2", FULL)).await;
    world.mail.hold_after(1);
    let worker = world.start_worker(|settings| settings.attempt_max = 100 * MS);
    world.mail.has_been_tried(3).await;
    assert_eq!(world.final_events().await, [(EventKind::MessageDelivered, "m1".to_owned(), None)]);
    assert_eq!(world.waiting(JO).await, ["m2"]);
    world.mail.let_go();
    eventually("the end of the job", async || world.job_if_any(JO).await.is_none().then_some(())).await;
    worker.stopped().await;
    assert_eq!(world.mail.messages().iter().filter(|message| *message == "m1").count(), 1);
}

#[tokio::test]
async fn an_attempt_whose_lease_is_lost_is_stopped_and_sends_nothing_more() {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    world.take_in(bounce(JO, "m2", FULL)).await;
    world.mail.hold();
    let worker = world.start_worker(|_| {});
    world.mail.has_been_tried(1).await;
    world.take_in(bounce(JO, "m3", UNKNOWN)).await;
    eventually("the end of the attempt", async || (world.mail.in_flight() == 0).then_some(())).await;
    world.mail.let_go();
    worker.stopped().await;
    assert_eq!(world.mail.messages(), ["m1"]);
    assert_eq!(world.final_events().await.len(), 3, "one per message, by the bounce that retired the address");
}

#[tokio::test]
async fn a_lease_on_jobs_that_are_gone_is_not_kept_alive() {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    world.mail.hold();
    let worker = world.start_worker(|_| {});
    world.mail.has_been_tried(1).await;
    world.take_in(bounce(JO, "m2", UNKNOWN)).await;
    eventually("the end of the lease", async || {
        world.clock.advance(LEASE / 4);
        world.store.leased(1).await.unwrap().is_empty().then_some(())
    })
    .await;
    world.mail.let_go();
    worker.stopped().await;
}

#[tokio::test]
async fn a_long_attempt_keeps_its_lease() {
    let world = World::new().await;
    world.take_in_and_wait(bounce(JO, "m1", FULL)).await;
    world.mail.hold();
    let worker = world.start_worker(|_| {});
    world.mail.has_been_tried(1).await;
    for _ in 0..5 {
        world.clock.advance(LEASE - MS);
        let wanted = Some(world.now().plus(LEASE));
        eventually("a longer lease", async || (world.job(JO).await.leased_until == wanted).then_some(())).await;
        assert_eq!(world.claim().await.len(), 0, "nobody else gets the job");
    }
    world.mail.let_go();
    eventually("the end of the job", async || world.job_if_any(JO).await.is_none().then_some(())).await;
    worker.stopped().await;
    assert_eq!(world.mail.tried().len(), 1);
    assert_eq!(world.final_events().await, [(EventKind::MessageDelivered, "m1".to_owned(), None)]);
    assert_eq!(world.events_of(EventKind::JobLapsed).await, []);
}

#[tokio::test]
async fn workers_together_deliver_every_message_once() {
    const JOBS: usize = 200;
    let world = World::new().await;
    for n in 0..JOBS {
        world.take_in(bounce(&format!("user{n}@host{}.example", n % 9), &format!("m{n}"), FULL)).await;
    }
    world.clock.advance(Duration::from_secs(30 * 3_600));
    let workers = [0; 3].map(|_| world.start_worker(|settings| settings.concurrency = 5));
    world.mail.has_been_tried(JOBS).await;
    for worker in workers {
        worker.stopped().await;
    }
    let mut messages = world.mail.messages();
    messages.sort();
    messages.dedup();
    assert_eq!((messages.len(), world.mail.tried().len()), (JOBS, JOBS));
    assert_eq!(world.events_of(EventKind::MessageDelivered).await.len(), JOBS);
}
