//! A worker that is killed loses no job, and a worker that is stopped exits cleanly. A scheduler
//! accepts a stream of any length in bounded memory.

use std::collections::HashSet;

use domain::clock::Clock;
use domain::event::EventKind;
use futures::{StreamExt, stream};
use harness::bounce::{FULL, MAINTENANCE, bounce};
use harness::http::NDJSON;
use harness::port::free_port;
use harness::process::Redeliver;
use harness::redis;
use harness::smtp::{Act, SmtpPeer, agree};
use harness::wait::eventually;
use harness::world::{Settings, World};
use serde_json::{Value, json};
use system::clock::SystemClock;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_util::io::StreamReader;

const JO: &str = "jo@example.com";

/// A worker on the store of `world` that sends all mail to `peer`.
fn start_worker(world: &World, peer: &SmtpPeer, settings: &str) -> Redeliver {
    let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
    let (host, port) = (peer.address.ip(), peer.address.port());
    Redeliver::start(
        "worker",
        &format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[worker]\n\
             poll_max = \"10ms\"\n{settings}\n\
             [log]\nfilter = \"error\"\n[[route]]\nname = \"default\"\nsender = \"smtp\"\n\
             host = \"{host}\"\nport = {port}\n"
        ),
    )
}

/// Lets two attempts of Jo's job fail. By the machine's clock that is long ago, and the third
/// attempt is due.
async fn fail_two_attempts(world: &World) {
    let mut bounce = bounce(JO, "m1", MAINTENANCE);
    bounce["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
    world.mail.reply_with(MAINTENANCE);
    world.post_and_wait_until_due(bounce).await;
    world.work().await;
    world.clock.set(world.job(JO).await.due.unwrap());
    world.work().await;
    let job = world.job(JO).await;
    assert_eq!(job.job.head.attempt, 2);
    assert!(job.due.unwrap() < SystemClock.now());
}

#[tokio::test]
async fn the_job_of_a_killed_worker_comes_back_with_an_exact_attempt_counter() {
    let world = World::with(Settings::days_behind()).await;
    fail_two_attempts(&world).await;
    // RCPT on the first connection gets no answer, so that this attempt is in flight when the
    // worker is killed.
    let peer = SmtpPeer::start(
        |received| match (received.command.as_str(), received.connection) {
            (command, 1) if command.starts_with("RCPT") => Act::Hang,
            (command, _) => agree(command),
        },
    )
    .await;
    let killed = start_worker(&world, &peer, "lease = \"1s\"");
    peer.wait_for_command("RCPT", 1).await;
    killed.kill().await;
    let leased = world.job(JO).await;
    assert!(
        leased.leased_until.is_some(),
        "a killed worker gives nothing back"
    );
    assert_eq!(
        leased.job.head.attempt, 2,
        "an attempt counts when it is settled"
    );

    let _another = start_worker(&world, &peer, "lease = \"1s\"");
    let delivered = eventually("the delivery", async || {
        world.events_of(EventKind::MessageDelivered).await.pop()
    })
    .await;
    assert_eq!(delivered.attempt, Some(3));
    assert_eq!(
        peer.connections_of("RCPT"),
        [1, 2],
        "only the attempt in flight was repeated"
    );
    assert_eq!(world.events_of(EventKind::JobLapsed).await.len(), 1);
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn a_worker_exits_cleanly_on_sigterm_and_gives_back_its_jobs() {
    let world = World::with(Settings::days_behind()).await;
    fail_two_attempts(&world).await;
    let due = world.job(JO).await.due;
    let peer = SmtpPeer::agreeable_except("DATA", Act::Hang).await;
    let worker = start_worker(&world, &peer, "grace = \"50ms\"");
    peer.wait_for_command("DATA", 1).await;
    assert!(worker.terminate().await.success());
    let job = world.job(JO).await;
    assert_eq!(
        (job.due, job.leased_until, job.job.head.attempt),
        (due, None, 2)
    );
    assert_eq!(world.events_of(EventKind::JobLapsed).await, []);
}

#[tokio::test]
async fn a_stream_of_100_000_lines_is_accepted_in_bounded_memory() {
    const LINES: usize = 100_000;
    const ADDRESSES: usize = 60_000;
    // The input is 50 MB and the output 15 MB. A scheduler that kept either in memory would exceed
    // the limit.
    const PADDING: &str = "";
    // The allocator keeps some freed memory, and the number of batches in progress varies. Neither
    // grows with more lines.
    const GROWTH_MAX: u64 = 32 << 20;
    let world = World::new().await;
    let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
    let base = format!("http://127.0.0.1:{}", free_port());
    let listen = base.trim_start_matches("http://");
    let scheduler = Redeliver::start(
        "scheduler",
        &format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[scheduler]\n\
             listen = \"{listen}\"\n[log]\nfilter = \"error\"\n"
        ),
    );
    let client = harness::http::client();
    let ready = || async {
        client
            .get(format!("{base}/readyz"))
            .send()
            .await
            .ok()
            .filter(|ready| ready.status() == 200)
    };
    eventually("the scheduler", ready).await;

    let post = async |name: &'static str, lines: usize, addresses: usize| {
        let line = move |n: usize| {
            let bounce = bounce(&address(name, n % addresses), &format!("m{n}"), FULL);
            Ok::<_, std::io::Error>(format!("{bounce}{PADDING:400}\n"))
        };
        let body = reqwest::Body::wrap_stream(stream::iter((0..lines).map(line)));
        let request = client
            .post(format!("{base}/v1/bounces"))
            .header("content-type", NDJSON)
            .body(body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 202);
        let bytes = response
            .bytes_stream()
            .map(|chunk| chunk.map_err(std::io::Error::other));
        let mut answers = BufReader::new(StreamReader::new(bytes)).lines();
        let mut count = 0;
        while let Some(answer) = answers.next_line().await.unwrap() {
            let answer: Value = serde_json::from_str(&answer).unwrap();
            let wanted = if count < addresses {
                "scheduled"
            } else {
                "joined"
            };
            assert_eq!(
                (&answer["answer"], &answer["job"]),
                (&json!(wanted), &json!(job(name, count % addresses)))
            );
            count += 1;
        }
        assert_eq!(count, lines, "each line has its answer, in order");
    };
    post("warm", 20_000, 10_000).await;
    let before = scheduler.peak_memory().await;
    post("user", LINES, ADDRESSES).await;
    let growth = scheduler.peak_memory().await.saturating_sub(before);
    assert!(
        growth < GROWTH_MAX,
        "the memory grew by {} KiB",
        growth >> 10
    );

    let scheduled = world.events_of(EventKind::JobScheduled).await;
    let jobs: HashSet<&str> = scheduled.iter().map(|event| &*event.job).collect();
    assert_eq!(
        (scheduled.len(), jobs.len()),
        (ADDRESSES + 10_000, ADDRESSES + 10_000),
        "one job per address"
    );
    assert!(scheduler.terminate().await.success());
}

fn address(name: &str, n: usize) -> String {
    format!("{name}{n}@host{}.example", n % 97)
}

fn job(name: &str, n: usize) -> String {
    format!("default/{}", address(name, n))
}
