//! A worker that was suspended until after its lease ended sends no more mail under that lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use domain::clock::{Clock, ManualClock};
use domain::event::EventKind;
use domain::outcome::Outcome;
use domain::reply::Reply;
use harness::bounce::{FULL, bounce};
use harness::process::Redeliver;
use harness::smtp::{Act, SmtpPeer, agree};
use harness::wait::eventually;
use harness::world::{LEASE, Settings, World};
use policy::table::Table;
use senders::attempt::Attempt;
use senders::lease_end::LeaseEnd;
use senders::sender::Sender;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker::attempt::Attempter;
use worker::content::Contents;
use worker::routes::Routes;

const JO: &str = "jo@example.com";

/// A worker on the store of `world` that sends all mail to `peer`.
fn start_worker(world: &World, peer: &SmtpPeer) -> Redeliver {
    let (url, prefix, shards) = (harness::redis::url(), &world.prefix, world.store.shards());
    let (host, port) = (peer.address.ip(), peer.address.port());
    Redeliver::start(
        "worker",
        &format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[worker]\n\
             poll_max = \"10ms\"\nlease = \"2s\"\n\
             [log]\nfilter = \"warn\"\n[[route]]\nname = \"default\"\nsender = \"smtp\"\n\
             host = \"{host}\"\nport = {port}\n"
        ),
    )
}

/// A world with one job that is due by the clock of a real worker.
async fn world_with_due_job() -> World {
    let world = World::with(Settings::days_behind()).await;
    let mut bounce = bounce(JO, "m1", FULL);
    bounce["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
    world.post_bounce(bounce).await;
    world
}

/// Freezes a worker while it waits for the reply to `command`. Another worker then takes the job.
/// After that the first worker continues, and finds that the reply has arrived. The peer must have
/// received the message only once.
async fn freeze_before_reply_to(command: &'static str) {
    let world = world_with_due_job().await;
    let peer = SmtpPeer::start(move |received| match agree(&received.command) {
        Act::Say(reply) if received.connection == 1 && received.is(command) => {
            Act::SayWhenReleased(reply)
        }
        act => act,
    })
    .await;
    let first = start_worker(&world, &peer);
    peer.wait_for_command(command, 1).await;
    first.freeze().await;
    peer.release_replies();
    let second = start_worker(&world, &peer);
    let delivered = async || world.events_of(EventKind::MessageDelivered).await.pop();
    eventually("the second worker's delivery", delivered).await;
    first.signal("-CONT").await;
    assert!(first.terminate().await.success());
    assert!(second.terminate().await.success());
    assert_eq!(
        peer.contents().len(),
        1,
        "{command:?}: {:?}",
        peer.received()
    );
    assert_eq!(world.events_of(EventKind::MessageDelivered).await.len(), 1);
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn a_worker_frozen_before_the_greeting_sends_nothing_after_its_lease() {
    freeze_before_reply_to("").await;
}

#[tokio::test]
async fn a_worker_frozen_before_the_answer_to_ehlo_sends_nothing_after_its_lease() {
    freeze_before_reply_to("EHLO").await;
}

#[tokio::test]
async fn a_worker_frozen_before_the_answer_to_mail_sends_nothing_after_its_lease() {
    freeze_before_reply_to("MAIL").await;
}

#[tokio::test]
async fn a_worker_frozen_before_the_answer_to_rcpt_sends_nothing_after_its_lease() {
    freeze_before_reply_to("RCPT").await;
}

#[tokio::test]
async fn a_worker_frozen_before_the_answer_to_data_sends_nothing_after_its_lease() {
    freeze_before_reply_to("DATA").await;
}

/// A sender that takes longer than the lease lasts. It counts the messages that it got.
struct Slow {
    clock: Arc<ManualClock>,
    sent: AtomicUsize,
}

#[async_trait]
impl Sender for Slow {
    async fn send(&self, _attempt: &Attempt) -> Outcome {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.clock.advance(LEASE);
        Outcome::Delivered(Reply::parse("250 2.0.0 Ok"))
    }

    fn wants_content(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn no_sender_gets_a_further_message_after_the_lease_has_ended() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    let sender = Arc::new(Slow {
        clock: world.clock.clone(),
        sent: AtomicUsize::default(),
    });
    let routes = Routes::new("default").with("default", sender.clone());
    let attempter = Attempter::new(
        routes,
        Contents::new(Vec::new()),
        Table::embedded(),
        world.clock.clone(),
    );
    let lease_end = LeaseEnd::new(world.clock.clone(), world.clock.monotonic(), LEASE);
    let leased = world.claim_one().await;
    let settlement = attempter
        .attempt(leased, &CancellationToken::new(), &lease_end)
        .await;
    assert!(settlement.is_some(), "the first message was delivered");
    assert_eq!(sender.sent.load(Ordering::Relaxed), 1);

    world.clock.advance(LEASE);
    let leased = world.claim_one().await;
    let settlement = attempter
        .attempt(leased, &CancellationToken::new(), &lease_end)
        .await;
    assert!(
        settlement.is_none(),
        "no message was tried, so the job is given back"
    );
    assert_eq!(sender.sent.load(Ordering::Relaxed), 1);
}
