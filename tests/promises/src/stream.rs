//! A mail system can add bounces to a stream in Redis. Each is processed by one of the schedulers,
//! even if another dies while it has the entry. An entry that is not a bounce is put aside, where
//! an operator can inspect it.

use std::time::Duration;

use config::model::Config;
use domain::event::EventKind;
use harness::bounce::{FULL, bounce};
use harness::http::{Http, client};
use harness::port::free_port;
use harness::process::Redeliver;
use harness::proxy::RedisProxy;
use harness::redis;
use harness::servers::{Servers, programs};
use harness::wait::{eventually, in_time};
use harness::world::{SHARDS, Settings, World};
use policy::table::Table;
use scheduler::intake::accept::Accept;
use scheduler::intake::json::Reader;
use scheduler::intake::stream::StreamReader;
use scheduler::placement::Placer;
use store::entry_id::EntryId;
use store::handle::Store;
use store::intake::IntakeEntry;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::deployments::connections;

const JO: &str = "jo@example.com";
const SAM: &str = "sam@example.com";

/// Adds to the intake stream as a mail system would.
pub(crate) async fn add(world: &World, fields: &[&str]) {
    let key = format!("{}:intake", world.prefix);
    redis::ask(&redis::url(), &[&["XADD", &key, "*"], fields].concat()).await;
}

/// How many entries a stream has.
pub(crate) async fn length(world: &World, stream: &str) -> usize {
    let answer = redis::ask(
        &redis::url(),
        &["XLEN", &format!("{}:{stream}", world.prefix)],
    )
    .await;
    answer.trim_start_matches(':').trim_end().parse().unwrap()
}

/// A reader of the stream. It takes over entries that other readers have had for this long.
pub(crate) fn reader(world: &World, idle: Duration) -> DropGuard {
    let stop = CancellationToken::new();
    tokio::spawn(
        reader_on(&world.store, 500)
            .with_idle_limit(idle)
            .run(stop.clone()),
    );
    stop.drop_guard()
}

pub(crate) fn reader_on(store: &Store, batch: usize) -> StreamReader {
    let placer = Placer::from_config(store.clone(), &Config::embedded()).unwrap();
    let accept = Accept::new(store.clone(), Table::embedded(), placer);
    StreamReader::new(
        store.clone(),
        accept,
        Reader::new(1 << 16, ["default".to_owned()].into()),
        batch,
    )
}

/// Adds a bounce to the intake stream.
async fn add_bounce(world: &World, recipient: &str) {
    let bounce = bounce(recipient, "m1", FULL).to_string();
    add(world, &["bounce", &bounce]).await;
}

/// Reads the entries of the stream like a reader that then dies. Returns them.
async fn read_and_die(world: &World) -> Vec<IntakeEntry> {
    let pause = Duration::from_millis(1);
    let read = world.store.read_intake("one that dies", 100, pause).await;
    read.unwrap()
}

async fn wait_for_empty_stream(world: &World) {
    eventually("an empty stream", async || {
        (length(world, "intake").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_bounce_added_to_the_stream_is_accepted_and_leaves_the_stream() {
    let world = World::new().await;
    let _scheduler = Http::serve(&world).await;
    add_bounce(&world, JO).await;
    add(
        &world,
        &[
            "recipient",
            SAM,
            "reply",
            FULL,
            "message_id",
            "m1",
            "metadata",
            r#"{"campaign":"c42"}"#,
        ],
    )
    .await;
    for address in [JO, SAM] {
        eventually("the job", async || world.job_if_any(address).await).await;
    }
    assert_eq!(
        world.job(SAM).await.job.messages[0].metadata["campaign"],
        "c42"
    );
    wait_for_empty_stream(&world).await;
    assert_eq!(length(&world, "intake:aside").await, 0);
}

#[tokio::test]
async fn entries_of_a_reader_that_died_are_taken_over() {
    let world = World::new().await;
    world.store.open_intake().await.unwrap();
    add_bounce(&world, JO).await;
    assert_eq!(read_and_die(&world).await.len(), 1);
    let _reader = reader(&world, Duration::from_millis(20));
    eventually("the job", async || world.job_if_any(JO).await).await;
    wait_for_empty_stream(&world).await;
}

#[tokio::test]
async fn an_entry_that_is_not_a_bounce_is_put_aside_with_an_event_without_an_address() {
    let world = World::new().await;
    let _scheduler = Http::serve(&world).await;
    add(&world, &["bounce", "{"]).await;
    add(&world, &["recipient", "jo@@example.com", "reply", FULL]).await;
    add(
        &world,
        &["recipient", SAM, "reply", FULL, "content", "not JSON"],
    )
    .await;
    add(&world, &["recipient", JO, "reply", FULL]).await;
    eventually("the job", async || world.job_if_any(JO).await).await;
    let refused = eventually("the events", async || {
        let refused = world.events_of(EventKind::IntakeRefused).await;
        (refused.len() == 3).then_some(refused)
    })
    .await;
    assert!(
        refused[1].reason.as_ref().unwrap().contains("recipient: "),
        "{refused:?}"
    );
    assert!(
        refused
            .iter()
            .all(|event| !format!("{event:?}").contains("example.com")),
        "{refused:?}"
    );
    assert_eq!(length(&world, "intake:aside").await, 3, "no entry is lost");
    wait_for_empty_stream(&world).await;
}

#[tokio::test]
async fn an_entry_that_crashes_its_readers_is_put_aside() {
    let world = World::new().await;
    world.store.open_intake().await.unwrap();
    add_bounce(&world, JO).await;
    read_and_die(&world).await;
    for n in 1..=5 {
        let left = world
            .store
            .unfinished_intake(10, Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(
            left.iter().map(|entry| entry.times).collect::<Vec<_>>(),
            [n],
            "how often the entry was handed out"
        );
        if n < 5 {
            world
                .store
                .take_over_intake(&format!("reader {n}"), &[&left[0].id], Duration::ZERO)
                .await
                .unwrap();
        }
    }
    let _reader = reader(&world, Duration::from_millis(20));
    eventually("the event", async || {
        world.events_of(EventKind::IntakeRefused).await.pop()
    })
    .await;
    assert_eq!(length(&world, "intake:aside").await, 1);
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn an_entry_whose_reader_died_while_removing_it_is_removed() {
    let world = World::new().await;
    world.store.open_intake().await.unwrap();
    add_bounce(&world, JO).await;
    let read = read_and_die(&world).await;
    // The first half of the removal.
    redis::ask(
        &redis::url(),
        &["XDEL", &format!("{}:intake", world.prefix), &read[0].id],
    )
    .await;
    let _reader = reader(&world, Duration::from_millis(20));
    eventually("the rest of the removal", async || {
        world
            .store
            .unfinished_intake(10, Duration::ZERO)
            .await
            .unwrap()
            .is_empty()
            .then_some(())
    })
    .await;
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn entries_of_a_dead_reader_are_taken_over_one_by_one_so_that_a_harmful_one_harms_no_other() {
    let world = World::new().await;
    world.store.open_intake().await.unwrap();
    for n in 0..5 {
        add_bounce(&world, &format!("user{n}@example.com")).await;
    }
    read_and_die(&world).await;
    let _reader = reader(&world, Duration::from_millis(20));
    wait_for_empty_stream(&world).await;
    let journals = world
        .store
        .read_journal(&vec![EntryId::default(); SHARDS.into()], 100)
        .await
        .unwrap();
    let together: Vec<usize> = journals
        .iter()
        .flatten()
        .map(|entry| entry.events.len())
        .collect();
    assert_eq!(
        together, [1; 5],
        "each entry was processed by a separate call"
    );
}

#[tokio::test]
async fn a_stopping_reader_leaves_the_entries_that_it_has_not_processed_to_the_next() {
    let world = World::new().await;
    world.store.open_intake().await.unwrap();
    for n in 0..12 {
        add_bounce(&world, &format!("user{n}@example.com")).await;
    }
    read_and_die(&world).await;
    let (proxy, stop) = (RedisProxy::before(&redis::url()), CancellationToken::new());
    let stopping = stop.clone();
    proxy.choose_faults(move |request| {
        if request == "schedule" {
            stopping.cancel();
        }
        None
    });
    let store = world.store_at(&proxy.url(), Duration::from_secs(30)).await;
    in_time(
        "the reader to stop",
        reader_on(&store, 5)
            .with_idle_limit(Duration::ZERO)
            .run(stop),
    )
    .await;
    assert_eq!(
        length(&world, "intake").await,
        11,
        "the entry in progress is processed, and no other"
    );
    assert_eq!(length(&world, "intake:aside").await, 0);

    let _next = reader(&world, Duration::ZERO);
    wait_for_empty_stream(&world).await;
    assert_eq!(world.events_of(EventKind::JobScheduled).await.len(), 12);
}

#[tokio::test]
async fn entries_that_cannot_be_stored_for_a_while_are_not_put_aside() {
    for program in programs() {
        let servers = Servers::new(&program);
        let master = servers.start(&[]).await;
        let replica = servers.start_replica(master, &[]).await;
        let redis = format!("url = \"redis://127.0.0.1:{master}\"\ndurability = \"replicas:1\"\n");
        let world = World::on(connections(&redis), Settings::default()).await;
        let key = |stream: &str| format!("{}:{stream}", world.prefix);
        let length = |stream| servers.cli(master, &["XLEN", &key(stream)]).unwrap();
        // The stream can always be read. Only the confirmation of writes is missing.
        servers.signal(replica, "-STOP");
        servers
            .cli(
                master,
                &["XADD", &key("intake"), "*", "recipient", JO, "reply", FULL],
            )
            .unwrap();
        let _reader = reader(&world, Duration::from_millis(1));
        let claims = || {
            let statistics = servers.cli(master, &["INFO", "commandstats"]).unwrap();
            let calls = statistics
                .lines()
                .find_map(|line| line.strip_prefix("cmdstat_xclaim:calls="));
            calls
                .and_then(|calls| calls.split(',').next()?.parse().ok())
                .unwrap_or(0)
        };
        let tried_often = async || (claims() >= 12 || length("intake:aside") != "0").then_some(());
        eventually("many tries", tried_often).await;
        assert_eq!(length("intake:aside"), "0");
        servers.signal(replica, "-CONT");
        eventually("an empty stream", async || {
            (length("intake") == "0").then_some(())
        })
        .await;
        assert_eq!(length("intake:aside"), "0");
        assert!(world.job_if_any(JO).await.is_some());
    }
}

#[tokio::test]
async fn a_scheduler_with_the_stream_disabled_does_not_read_it() {
    let world = World::new().await;
    add_bounce(&world, JO).await;
    let (url, prefix, shards, port) = (
        redis::url(),
        &world.prefix,
        world.store.shards(),
        free_port(),
    );
    let scheduler = Redeliver::start(
        "scheduler",
        &format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[scheduler]\n\
             listen = \"127.0.0.1:{port}\"\n\
             [intake.stream]\nenabled = false\n[log]\nfilter = \"error\"\n"
        ),
    );
    let ready = format!("http://127.0.0.1:{port}/readyz");
    eventually("the scheduler", async || {
        client()
            .get(&ready)
            .send()
            .await
            .ok()?
            .error_for_status()
            .ok()
    })
    .await;
    let posted = client()
        .post(format!("http://127.0.0.1:{port}/v1/bounces"))
        .json(&bounce(SAM, "m1", FULL));
    assert_eq!(posted.send().await.unwrap().status(), 202);
    assert!(scheduler.terminate().await.success());
    assert_eq!(length(&world, "intake").await, 1);

    let _other = Http::serve(&world).await;
    eventually("the job", async || world.job_if_any(JO).await).await;
}
