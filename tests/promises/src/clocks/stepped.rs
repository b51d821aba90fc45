//! The clock of the Redis server may be set an hour ahead or back while mail is sent. No mail is
//! lost, only attempts in flight may be repeated, and due jobs do not wait until the clock has
//! caught up.

use std::collections::BTreeMap;

use harness::bounce::{FULL, bounce};
use harness::faketime::FakeClock;
use harness::port::free_port;
use harness::process::Redeliver;
use harness::servers::Servers;
use harness::smtp::{Act, SmtpPeer, agree};
use harness::wait::eventually;
use harness::world::{Deployment, Settings, World};
use serde_json::json;

/// The number of jobs, spread over some domains.
const JOBS: usize = 40;
const DOMAINS: usize = 4;

/// How many attempts a worker makes at once.
const AT_ONCE: usize = 4;

/// What happens to the worker whose attempts are in flight when the clock is set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstWorker {
    Continues,
    IsKilled,
}

/// Moves the clock by `offset` while attempts are in flight, and waits for the end of all jobs.
/// Each message must end once, and only messages in flight at the change may be sent twice.
async fn set_clock_while_sending(offset: &str, first_worker: FirstWorker) {
    let clock = FakeClock::new("+0");
    let servers = Servers::with_clock(&clock);
    let port = servers.start(&[]).await;
    let url = format!("redis://127.0.0.1:{port}/0");
    let world = world_with_due_jobs(&url).await;
    // The first attempts stay in flight until the clock has been set.
    let peer = SmtpPeer::start(|received| match agree(&received.command) {
        Act::Say(reply)
            if received.command.starts_with("RCPT") && received.connection <= AT_ONCE =>
        {
            Act::SayWhenReleased(reply)
        }
        act => act,
    })
    .await;
    let scheduler = start_scheduler(&world, &url);
    // Waits until upkeep has started, so that the scheduler has read the clock before it is set.
    let occurrences = format!("{}:*:upkeep:reinstate:*", world.prefix);
    let began = async || {
        servers
            .cli(port, &["KEYS", &occurrences])
            .filter(|keys| !keys.is_empty())
    };
    eventually("upkeep", began).await;
    let first = start_worker(&world, &url, &peer);
    peer.wait_for_command("RCPT", AT_ONCE).await;
    if first_worker == FirstWorker::IsKilled {
        first.signal("-KILL").await;
    }
    clock.set(offset);
    let second = start_worker(&world, &url, &peer);
    peer.wait_for_command("RCPT", AT_ONCE + 1).await;
    peer.release_replies();

    let ends = eventually("the end of all jobs", async || {
        Some(world.final_events().await).filter(|ends| ends.len() >= JOBS)
    });
    let mut ends_of: BTreeMap<String, usize> = BTreeMap::new();
    ends.await
        .into_iter()
        .for_each(|(_, message, _)| *ends_of.entry(message).or_default() += 1);
    assert_eq!(
        ends_of.values().copied().collect::<Vec<_>>(),
        [1; JOBS],
        "each message ends once"
    );
    let mut copies_of: BTreeMap<_, usize> = BTreeMap::new();
    peer.contents()
        .into_iter()
        .for_each(|content| *copies_of.entry(content).or_default() += 1);
    assert_eq!(copies_of.len(), JOBS, "each message was sent");
    let repeated = copies_of.values().filter(|copies| **copies > 1).count();
    assert!(
        repeated <= AT_ONCE && copies_of.values().all(|copies| *copies <= 2),
        "{copies_of:?}"
    );
    assert!(world.store.leased(JOBS).await.unwrap().is_empty());
    drop((first, second, scheduler));
}

async fn world_with_due_jobs(url: &str) -> World {
    let world = World::with(Settings {
        redis: Deployment::Server(url.to_owned()),
        ..Settings::days_behind()
    })
    .await;
    let bounces = (0..JOBS).map(|n| {
        let mut bounce = bounce(
            &format!("user{n}@host{}.example", n % DOMAINS),
            &format!("m{n}"),
            FULL,
        );
        bounce["content"] = json!({"inline": format!("Subject: {n}\r\n\r\nhello\r\n")});
        bounce
    });
    world.post_bounces(bounces).await;
    world
}

fn configuration(world: &World, url: &str) -> String {
    let (prefix, shards) = (&world.prefix, world.store.shards());
    format!(
        "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[log]\n\
         filter = \"warn\"\n\
         [pace]\nrate = 5\nburst = 1\nwindow_new = 20\n"
    )
}

fn start_scheduler(world: &World, url: &str) -> Redeliver {
    let configuration = configuration(world, url);
    let listen = format!(
        "[scheduler]\nlisten = \"127.0.0.1:{}\"\n[upkeep]\nreinstate = \"* * * * * *\"\n",
        free_port()
    );
    Redeliver::start("scheduler", &format!("{configuration}{listen}"))
}

fn start_worker(world: &World, url: &str, peer: &SmtpPeer) -> Redeliver {
    let (configuration, host, port) = (
        configuration(world, url),
        peer.address.ip(),
        peer.address.port(),
    );
    Redeliver::start(
        "worker",
        &format!(
            "{configuration}[worker]\nlease = \"2s\"\npoll_max = \"10ms\"\nheartbeat = \"500ms\"\n\
             concurrency = {AT_ONCE}\n\
             unproven_share = 1.0\npatience = \"60s\"\n\
             [[route]]\nname = \"default\"\nsender = \"smtp\"\nhost = \"{host}\"\nport = {port}\n"
        ),
    )
}

#[tokio::test]
async fn if_the_clock_of_redis_is_set_an_hour_ahead_only_attempts_in_flight_are_repeated() {
    set_clock_while_sending("+1h", FirstWorker::Continues).await;
}

#[tokio::test]
async fn if_the_clock_of_redis_is_set_an_hour_back_due_jobs_are_still_tried() {
    set_clock_while_sending("-1h", FirstWorker::Continues).await;
}

#[tokio::test]
async fn if_the_clock_of_redis_is_set_an_hour_back_the_jobs_of_a_dead_worker_come_back_soon() {
    set_clock_while_sending("-1h", FirstWorker::IsKilled).await;
}
