//! Whatever the peer does, the state of the job stays right: a relay that acts at random, in the
//! life of whole jobs.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

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

/// More tries than any schedule has, holds included, where every fourth command goes wrong.
const TRIES_MAX: usize = 400;

const ACTS: [Act; 12] = [
    Act::Say("250 2.0.0 ok"),
    Act::Say("354 go on"),
    Act::Say("421 4.3.2 closing"),
    Act::Say("220 hello"),
    Act::Say("550 5.1.1 no such user"),
    Act::Say("452 4.2.2 mailbox full"),
    Act::Say("554 5.6.0 this is no mail"),
    Act::SayAndClose("451 4.3.0 no"),
    Act::Begin("250-"),
    Act::Say("garbage"),
    Act::Close,
    Act::Reset,
];

/// A relay that answers every `1/often` command at random, and the contents that it has said yes
/// to.
async fn erratic(seed: u64, often: usize) -> (SmtpPeer, Arc<Mutex<Vec<bool>>>) {
    let random = Mutex::new(Random::from_seed(seed));
    let taken = Arc::new(Mutex::new(Vec::new()));
    let answers = taken.clone();
    let peer = SmtpPeer::start(move |received| {
        let mut random = random.lock().expect("nobody panics while holding it");
        let act = match random.below(often) {
            0 => random.of(&ACTS),
            _ => agree(&received.command),
        };
        if received.command == "." {
            let yes = matches!(act, Act::Say(reply) if reply.starts_with('2'));
            answers
                .lock()
                .expect("nobody panics while holding it")
                .push(yes);
        }
        act
    })
    .await;
    (peer, taken)
}

/// What a try makes of the job's counter: its last event says whether it counts, and after a
/// delivery it begins anew.
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

async fn live_and_let_die(seed: u64) {
    let often = 2 + (seed % 5) as usize;
    let (peer, taken) = erratic(seed, often).await;
    // So that a job that is due can be claimed, whatever its destination has failed with.
    let mut world = World::with(Settings {
        pace: Pace::unbounded(),
        ..Settings::default()
    })
    .await;
    let mut settings = SmtpSettings::new(peer.address.ip().to_string(), peer.address.port());
    settings.session.timeouts = SmtpTimeouts::all(LIMIT);
    world.sends_by(Arc::new(SmtpSender::new(settings)));
    let ids: Vec<String> = (0..1 + seed % 3).map(|n| format!("m{n}")).collect();
    for id in &ids {
        let mut posted = bounce(JO, id, "450 4.2.0 try later");
        posted["content"] = json!({"inline": format!("Subject: {id}\n\nhello\n")});
        world.take_in(posted).await;
    }
    let mut tries = 0;
    while let Some(before) = world.job_if_any(JO).await {
        tries += 1;
        assert!(tries < TRIES_MAX, "seed {seed}: the job has an end");
        let known = world.events().await.len();
        world.clock.set(before.due.expect("nobody has leased it"));
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
    let (contents, taken) = (
        peer.contents(),
        taken
            .lock()
            .expect("nobody panics while holding it")
            .clone(),
    );
    let mut done = HashSet::new();
    for (content, taken) in contents.iter().zip(&taken) {
        let content = String::from_utf8_lossy(content).into_owned();
        assert!(
            !done.contains(&content),
            "seed {seed}: what was taken is not sent again: {content}"
        );
        if *taken {
            done.insert(content);
        }
    }
    for retired in world.events_of(EventKind::AddressRetired).await {
        let reply = Reply::parse(retired.reply.as_deref().unwrap_or_default());
        // A relay that closes before it has the message says nothing of the address.
        let word =
            reply.code.is_some_and(|code| code != 421) || reply.to_string().contains("end of DATA");
        assert!(
            word,
            "seed {seed}: only a mail system's word retires: {reply}"
        );
    }
    assert_eq!(
        world.standing_record(JO).await.is_some(),
        !world.events_of(EventKind::AddressRetired).await.is_empty()
    );
}

#[tokio::test]
async fn whatever_the_peer_does_the_state_of_the_job_stays_right() {
    join_all(seeds(30).map(live_and_let_die)).await;
}
