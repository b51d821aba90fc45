//! A worker that is stopped takes no new jobs. Running attempts may finish within the grace period,
//! and the worker gives back all other jobs. While an attempt runs, its lease is extended.

use std::sync::Arc;
use std::time::Duration;

use domain::event::EventKind;
use domain::tally::TallyResult;
use harness::bounce::{FULL, UNKNOWN, bounce};
use harness::smtp::{Act, SmtpPeer};
use harness::wait::eventually;
use harness::world::{LEASE, MS, World};
use policy::table::Table;
use senders::lease_end::LeaseEnd;
use senders::settings::session::AfterDot;
use senders::settings::smtp::SmtpSettings;
use senders::smtp::SmtpSender;
use serde_json::json;
use store::settle::{Settled, Settlement};
use tokio_util::sync::CancellationToken;
use worker::attempt::Attempter;
use worker::content::Contents;
use worker::routes::Routes;

const JO: &str = "jo@example.com";

#[tokio::test]
async fn a_stopping_worker_finishes_its_attempts_in_flight_and_claims_nothing_more() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.mail.hold();
    let worker = world.start_worker(|_| {});
    world.mail.wait_for_attempts(1).await;

    worker.stop();
    let stopped = tokio::spawn(worker.stopped());
    world
        .post_and_wait_until_due(bounce("sam@example.com", "m1", FULL))
        .await;
    world.mail.release_held();
    stopped.await.unwrap();
    assert!(
        world.job_if_any(JO).await.is_none(),
        "the attempt was settled"
    );
    assert_eq!(
        world.final_events().await,
        [(EventKind::MessageDelivered, "m1".to_owned(), None)]
    );

    let left = world.job("sam@example.com").await;
    assert_eq!(
        (left.leased_until, left.job.head.attempt),
        (None, 0),
        "the job waits for another worker"
    );
}

#[tokio::test]
async fn a_job_not_finished_within_the_grace_period_is_given_back_as_untried() {
    let world = World::new().await;
    let due = world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    world.mail.hold();
    let worker = world.start_worker(|settings| settings.grace = MS);
    world.mail.wait_for_attempts(1).await;
    worker.stopped().await;

    let job = world.job(JO).await;
    assert_eq!(
        (job.due, job.leased_until, job.job.head.attempt),
        (Some(due), None, 0)
    );
    assert_eq!(world.waiting(JO).await, ["m1", "m2"]);
    assert_eq!(world.final_events().await, []);

    world.mail.release_held();
    assert_eq!(world.work().await, 1, "another worker gets the job at once");
    assert_eq!(world.final_events().await.len(), 2);
}

#[tokio::test]
async fn a_message_delivered_before_its_attempt_was_stopped_is_not_sent_again() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    world.mail.hold_after(1);
    let worker = world.start_worker(|settings| settings.grace = MS);
    world.mail.wait_for_attempts(2).await;
    worker.stopped().await;
    assert_eq!(
        world.final_events().await,
        [(EventKind::MessageDelivered, "m1".to_owned(), None)]
    );
    assert_eq!(world.waiting(JO).await, ["m2"]);

    world.mail.release_held();
    assert_eq!(
        world.work().await,
        1,
        "another worker gets the rest at once"
    );
    assert_eq!(world.mail.messages(), ["m1", "m2", "m2"]);
}

#[tokio::test]
async fn a_message_delivered_by_an_attempt_that_then_takes_too_long_is_not_sent_again() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    world.mail.hold_after(1);
    let worker = world.start_worker(|settings| settings.attempt_max = 100 * MS);
    world.mail.wait_for_attempts(3).await;
    assert_eq!(
        world.final_events().await,
        [(EventKind::MessageDelivered, "m1".to_owned(), None)]
    );
    assert_eq!(world.waiting(JO).await, ["m2"]);
    world.mail.release_held();
    eventually("the end of the job", async || {
        world.job_if_any(JO).await.is_none().then_some(())
    })
    .await;
    worker.stopped().await;
    assert_eq!(
        world
            .mail
            .messages()
            .iter()
            .filter(|message| *message == "m1")
            .count(),
        1
    );
}

/// A world with two messages that are due, and an attempter that sends mail to `peer`.
async fn world_and_attempter(peer: &SmtpPeer, after_dot: AfterDot) -> (World, Attempter) {
    let world = World::new().await;
    let mut settings = SmtpSettings::new(peer.address.ip().to_string(), peer.address.port());
    settings.session.after_dot = after_dot;
    let routes = Routes::new("default").with("default", Arc::new(SmtpSender::new(settings)));
    let attempter = Attempter::new(
        routes,
        Contents::new(Vec::new()),
        Table::embedded(),
        world.store.clock().clone(),
    );
    for message in ["m1", "m2"] {
        let mut mail = bounce(JO, message, FULL);
        mail["content"] = json!({"inline": format!("Subject: {message}\r\n\r\nbye\r\n")});
        world.post_bounce(mail).await;
    }
    world.clock.set(world.job(JO).await.due.unwrap());
    (world, attempter)
}

/// Makes an attempt, and stops it when the peer has received `command`. Returns the settlement, if
/// there is one.
async fn stop_at(
    command: &str,
    peer: &SmtpPeer,
    world: &World,
    attempter: &Attempter,
) -> Option<Settlement> {
    let stop = CancellationToken::new();
    let stopping = async {
        peer.wait_for_command(command, 1).await;
        stop.cancel();
    };
    let never = LeaseEnd::default();
    let attempt = attempter.attempt(world.claim_one().await, &stop, &never);
    let (ended, ()) = tokio::join!(attempt, stopping);
    ended.map(|ended| *ended.settlement)
}

#[tokio::test]
async fn a_message_sent_completely_before_its_attempt_is_stopped_still_gets_its_answer() {
    let peer = SmtpPeer::agreeable_except(".", Act::Drip("250 2.0.0 ok", 10)).await;
    let (world, attempter) = world_and_attempter(&peer, AfterDot::Resend).await;
    let settlement = stop_at(".", &peer, &world, &attempter)
        .await
        .expect("one message was delivered");
    assert_eq!(world.settle(&settlement).await, Settled::Done);
    assert_eq!(
        world.final_events().await,
        [(EventKind::MessageDelivered, "m1".to_owned(), None)]
    );
    assert_eq!(
        (world.waiting(JO).await, peer.contents().len()),
        (vec!["m2".to_owned()], 1),
        "nothing more is sent"
    );
}

#[tokio::test]
async fn the_setting_after_dot_decides_about_a_sent_but_unanswered_message_of_a_stopped_attempt() {
    for (after_dot, waits, kind) in [
        (
            AfterDot::Resend,
            &["m1", "m2"][..],
            EventKind::AttemptDeferred,
        ),
        (
            AfterDot::AssumeDelivered,
            &["m2"],
            EventKind::MessageDelivered,
        ),
    ] {
        let peer = SmtpPeer::agreeable_except(".", Act::Hang).await;
        let (world, attempter) = world_and_attempter(&peer, after_dot).await;
        let settlement = stop_at(".", &peer, &world, &attempter)
            .await
            .expect("the message may have been delivered");
        assert_eq!(
            settlement.tally.result,
            TallyResult::Unknown,
            "{after_dot:?}"
        );
        assert_eq!(world.settle(&settlement).await, Settled::Done);
        assert_eq!(world.waiting(JO).await, waits, "{after_dot:?}");
        let spent = u32::from(after_dot == AfterDot::Resend);
        assert_eq!(world.job(JO).await.job.head.attempt, spent, "{after_dot:?}");
        let event = world.events_of(kind).await.remove(0);
        assert_eq!(event.message.as_deref(), Some("m1"));
        assert!(
            event.transcript.expect("a connection was made").unknown,
            "{after_dot:?}"
        );
        assert_eq!(
            event.reason.as_deref(),
            (after_dot == AfterDot::Resend).then_some("unknown")
        );
    }
}

#[tokio::test]
async fn a_message_not_yet_sent_completely_when_its_attempt_is_stopped_counts_as_not_tried() {
    for command in ["MAIL", "RCPT", "DATA"] {
        let peer = SmtpPeer::agreeable_except(command, Act::Hang).await;
        let (world, attempter) = world_and_attempter(&peer, AfterDot::AssumeDelivered).await;
        assert!(
            stop_at(command, &peer, &world, &attempter).await.is_none(),
            "{command}"
        );
    }
}

#[tokio::test]
async fn an_attempt_that_lost_its_lease_is_stopped_and_sends_nothing_more() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    world.mail.hold();
    let worker = world.start_worker(|_| {});
    world.mail.wait_for_attempts(1).await;
    world.post_bounce(bounce(JO, "m3", UNKNOWN)).await;
    eventually("the end of the attempt", async || {
        (world.mail.in_flight() == 0).then_some(())
    })
    .await;
    world.mail.release_held();
    worker.stopped().await;
    assert_eq!(world.mail.messages(), ["m1"]);
    assert_eq!(
        world.final_events().await.len(),
        3,
        "one per message, from the bounce that retired the address"
    );
}

#[tokio::test]
async fn a_lease_on_jobs_that_no_longer_exist_is_not_extended() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.mail.hold();
    let worker = world.start_worker(|_| {});
    world.mail.wait_for_attempts(1).await;
    world.post_bounce(bounce(JO, "m2", UNKNOWN)).await;
    eventually("the end of the lease", async || {
        world.clock.advance(LEASE / 4);
        world
            .store
            .leased(1)
            .await
            .unwrap()
            .is_empty()
            .then_some(())
    })
    .await;
    world.mail.release_held();
    worker.stopped().await;
}

#[tokio::test]
async fn the_lease_of_a_long_attempt_is_extended_until_the_attempt_ends() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.mail.hold();
    let worker = world.start_worker(|_| {});
    world.mail.wait_for_attempts(1).await;
    for _ in 0..5 {
        world.clock.advance(LEASE - MS);
        let wanted = Some(world.now().plus(LEASE));
        eventually("a longer lease", async || {
            (world.job(JO).await.leased_until == wanted).then_some(())
        })
        .await;
        assert_eq!(world.claim().await.len(), 0, "no other claim gets the job");
    }
    world.mail.release_held();
    eventually("the end of the job", async || {
        world.job_if_any(JO).await.is_none().then_some(())
    })
    .await;
    worker.stopped().await;
    assert_eq!(world.mail.tried().len(), 1);
    assert_eq!(
        world.final_events().await,
        [(EventKind::MessageDelivered, "m1".to_owned(), None)]
    );
    assert_eq!(world.events_of(EventKind::JobLapsed).await, []);
}

#[tokio::test]
async fn several_workers_together_deliver_every_message_once() {
    const JOBS: usize = 200;
    let world = World::new().await;
    for n in 0..JOBS {
        world
            .post_bounce(bounce(
                &format!("user{n}@host{}.example", n % 9),
                &format!("m{n}"),
                FULL,
            ))
            .await;
    }
    world.clock.advance(Duration::from_secs(30 * 3_600));
    let workers = [0; 3].map(|_| world.start_worker(|settings| settings.concurrency = 5));
    world.mail.wait_for_attempts(JOBS).await;
    for worker in workers {
        worker.stopped().await;
    }
    let mut messages = world.mail.messages();
    messages.sort();
    messages.dedup();
    assert_eq!((messages.len(), world.mail.tried().len()), (JOBS, JOBS));
    assert_eq!(
        world.events_of(EventKind::MessageDelivered).await.len(),
        JOBS
    );
}
