//! The state of a job stays correct over its whole life, even if its relay acts at random.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::clock::Clock;
use domain::event::{Event, EventKind};
use domain::pace::Pace;
use domain::reply::Reply;
use futures::future::join_all;
use harness::bounce::bounce;
use harness::random::{Random, seeds};
use harness::smtp::{Act, SmtpPeer, agree};
use harness::world::{Settings, World};
use senders::settings::session::SmtpTimeouts;
use senders::settings::smtp::SmtpSettings;
use senders::smtp::SmtpSender;
use serde_json::json;

const JO: &str = "jo@example.com";
const LIMIT: Duration = Duration::from_millis(250);

/// More tries than any job here needs, including the tries that do not count.
const TRIES_MAX: usize = 400;

const ACTS: [Act; 12] = [
    Act::Say("250 2.0.0 ok"),
    Act::Say("354 go on"),
    Act::Say("421 4.3.2 closing"),
    Act::Say("220 hello"),
    Act::Say("550 5.1.1 no such user"),
    Act::Say("452 4.2.2 mailbox full"),
    Act::Say("554 5.6.0 this is no mail"),
    Act::ReplyAndClose("451 4.3.0 no"),
    Act::Begin("250-"),
    Act::Say("garbage"),
    Act::Close,
    Act::Reset,
];

/// A relay that answers one in `often` commands at random. Also returns whether it accepted each
/// content that it received.
async fn erratic(seed: u64, often: usize) -> (SmtpPeer, Arc<Mutex<Vec<bool>>>) {
    let random = Mutex::new(Random::from_seed(seed));
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let answers = accepted.clone();
    let peer = SmtpPeer::start(move |received| {
        let mut random = random
            .lock()
            .expect("no thread panics while it holds the lock");
        let act = match random.below(often) {
            0 => random.of(&ACTS),
            _ => agree(&received.command),
        };
        if received.command == "." {
            let is_accepted = matches!(act, Act::Say(reply) if reply.starts_with('2'));
            answers
                .lock()
                .expect("no thread panics while it holds the lock")
                .push(is_accepted);
        }
        act
    })
    .await;
    (peer, accepted)
}

/// The attempt counter after a try. The last event of the try shows whether it counts, and a
/// delivery resets the counter.
fn counted(before: u32, try_events: &[Event]) -> u32 {
    let delivered = try_events
        .iter()
        .any(|event| event.kind == EventKind::MessageDelivered);
    let held = try_events
        .iter()
        .any(|event| event.reason.as_deref() == Some("held"));
    match (delivered, held) {
        (true, _) => 0,
        (false, true) => before,
        (false, false) => before + 1,
    }
}

async fn run_whole_life(seed: u64) {
    let often = 2 + (seed % 5) as usize;
    let (peer, accepted) = erratic(seed, often).await;
    // Without limits, so that a due job can be claimed after any failures of its destination.
    let mut world = World::with(Settings {
        pace: Pace::unbounded(),
        ..Settings::default()
    })
    .await;
    let mut settings = SmtpSettings::new(peer.address.ip().to_string(), peer.address.port());
    settings.session.timeouts = SmtpTimeouts::all(LIMIT);
    world.set_sender(Arc::new(SmtpSender::new(settings)));
    let ids: Vec<String> = (0..1 + seed % 3).map(|n| format!("m{n}")).collect();
    for id in &ids {
        let mut posted = bounce(JO, id, "450 4.2.0 try later");
        posted["content"] = json!({"inline": format!("Subject: {id}\n\nhello\n")});
        world.post_bounce(posted).await;
    }
    let mut tries = 0;
    while let Some(before) = world.job_if_any(JO).await {
        tries += 1;
        assert!(tries < TRIES_MAX, "seed {seed}: the job ends");
        let known = world.events().await.len();
        world.clock.set(before.due.expect("the job is not leased"));
        assert_eq!(world.work().await, 1, "seed {seed}");
        let Some(after) = world.job_if_any(JO).await else {
            break;
        };
        let all = world.events().await;
        let expected = counted(before.job.head.attempt, &all[known..]);
        assert_eq!(
            after.job.head.attempt,
            expected,
            "seed {seed}, try {tries}: {:?}",
            &all[known..]
        );
    }

    let mut ended: Vec<String> = world
        .final_events()
        .await
        .into_iter()
        .map(|(_, message, _)| message)
        .collect();
    ended.sort();
    assert_eq!(ended, ids, "seed {seed}: each message has one final event");
    let (contents, accepted) = (
        peer.contents(),
        accepted
            .lock()
            .expect("no thread panics while it holds the lock")
            .clone(),
    );
    let mut done = HashSet::new();
    for (content, accepted) in contents.iter().zip(&accepted) {
        let content = String::from_utf8_lossy(content).into_owned();
        assert!(
            !done.contains(&content),
            "seed {seed}: an accepted message is not sent again: {content}"
        );
        if *accepted {
            done.insert(content);
        }
    }
    for retired in world.events_of(EventKind::AddressRetired).await {
        let reply = Reply::parse(retired.reply.as_deref().unwrap_or_default());
        // A relay that closes before it has the message is no evidence about the address.
        let is_evidence =
            reply.code.is_some_and(|code| code != 421) || reply.to_string().contains("end of DATA");
        assert!(
            is_evidence,
            "seed {seed}: only a reply to the message retires: {reply}"
        );
    }
    assert_eq!(
        world.standing_record(JO).await.is_some(),
        !world.events_of(EventKind::AddressRetired).await.is_empty()
    );
}

#[tokio::test]
async fn the_state_of_a_job_stays_correct_with_a_relay_that_acts_at_random() {
    join_all(seeds(30).map(run_whole_life)).await;
}

#[tokio::test]
async fn a_job_waits_as_long_as_its_relay_asks_for_when_it_closes() {
    const BUSY: &str = "421 4.7.0 Too busy for jo@example.com, try again in 40 minutes";
    let peer = SmtpPeer::agreeable_except("RCPT", Act::ReplyAndClose(BUSY)).await;
    let mut world = World::new().await;
    let settings = SmtpSettings::new(peer.address.ip().to_string(), peer.address.port());
    world.set_sender(Arc::new(SmtpSender::new(settings)));
    let mut posted = bounce(JO, "m1", "450 4.2.0 try later");
    posted["content"] = json!({"inline": "Subject: m1\n\nhello\n"});
    world.post_and_wait_until_due(posted).await;
    assert_eq!(world.work().await, 1);
    let job = world.job(JO).await;
    let wait = job
        .due
        .expect("the job is not leased")
        .since(world.clock.now());
    assert_eq!(wait.as_secs(), 40 * 60);
    assert_eq!(job.job.head.attempt, 0, "the attempt does not count");
    let deferred = world.events_of(EventKind::AttemptDeferred).await.remove(0);
    let reply = deferred.reply.expect("an attempt was made");
    assert!(
        reply.contains("421 4.7.0 Too busy for … try again in 40 minutes"),
        "{reply}"
    );
}
