//! A mail system can add bounces to a stream in Redis itself. Each is taken in by some scheduler,
//! whoever dies, and what is no bounce is put aside where it can be seen.

use std::time::Duration;

use config::model::Config;
use domain::event::EventKind;
use harness::bounce::{FULL, bounce};
use harness::http::{Http, client};
use harness::process::{Redeliver, free_port};
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
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::deployments::connections;

const JO: &str = "jo@example.com";
const SAM: &str = "sam@example.com";

/// Does to the intake stream what a mail system would.
pub(crate) async fn add(world: &World, fields: &[&str]) {
    let key = format!("{}:intake", world.prefix);
    redis::ask(&redis::url(), &[&["XADD", &key, "*"], fields].concat()).await;
}

pub(crate) async fn length(world: &World, stream: &str) -> usize {
    let answer = redis::ask(
        &redis::url(),
        &["XLEN", &format!("{}:{stream}", world.prefix)],
    )
    .await;
    answer.trim_start_matches(':').trim_end().parse().unwrap()
}

/// A scheduler's reader that takes over what others have had for this long.
pub(crate) fn reader(world: &World, idle: Duration) -> DropGuard {
    let stop = CancellationToken::new();
    tokio::spawn(
        reader_on(&world.store, 500)
            .taking_over_after(idle)
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

#[tokio::test]
async fn what_a_mail_system_adds_is_taken_in_and_leaves_the_stream() {
    let world = World::new().await;
    let _scheduler = Http::serve(&world).await;
    add(&world, &["bounce", &bounce(JO, "m1", FULL).to_string()]).await;
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
    eventually("an empty stream", async || {
        (length(&world, "intake").await == 0).then_some(())
    })
    .await;
    assert_eq!(length(&world, "intake:aside").await, 0);
}

#[tokio::test]
async fn what_a_reader_had_when_it_died_is_taken_over() {
    let world = World::new().await;
    world.store.open_intake().await.unwrap();
    add(&world, &["bounce", &bounce(JO, "m1", FULL).to_string()]).await;
    let had = world
        .store
        .read_intake("one that dies", 10, Duration::from_millis(1))
        .await
        .unwrap();
    assert_eq!(had.len(), 1);
    let _reader = reader(&world, Duration::from_millis(20));
    eventually("the job", async || world.job_if_any(JO).await).await;
    eventually("an empty stream", async || {
        (length(&world, "intake").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_no_bounce_is_put_aside_with_an_event_that_names_nobody() {
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
    assert_eq!(length(&world, "intake:aside").await, 3, "nothing is lost");
    eventually("an empty stream", async || {
        (length(&world, "intake").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_entry_that_kills_its_readers_is_put_aside() {
    let world = World::new().await;
    world.store.open_intake().await.unwrap();
    add(&world, &["bounce", &bounce(JO, "m1", FULL).to_string()]).await;
    world
        .store
        .read_intake("the first", 10, Duration::from_millis(1))
        .await
        .unwrap();
    for n in 1..=5 {
        let left = world
            .store
            .left_in_intake(10, Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(
            left.iter().map(|entry| entry.times).collect::<Vec<_>>(),
            [n],
            "how often it was handed out"
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
async fn an_entry_whose_reader_died_while_it_finished_it_is_forgotten() {
    let world = World::new().await;
    world.store.open_intake().await.unwrap();
    add(&world, &["bounce", &bounce(JO, "m1", FULL).to_string()]).await;
    let read = world
        .store
        .read_intake("one that dies", 10, Duration::from_millis(1))
        .await
        .unwrap();
    // The first half of finishing it.
    redis::ask(
        &redis::url(),
        &["XDEL", &format!("{}:intake", world.prefix), &read[0].id],
    )
    .await;
    let _reader = reader(&world, Duration::from_millis(20));
    eventually("nothing to be left", async || {
        world
            .store
            .left_in_intake(10, Duration::ZERO)
            .await
            .unwrap()
            .is_empty()
            .then_some(())
    })
    .await;
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn what_a_dead_reader_had_is_taken_in_one_by_one_so_that_what_killed_it_takes_nothing_along()
{
    let world = World::new().await;
    world.store.open_intake().await.unwrap();
    for n in 0..5 {
        add(
            &world,
            &[
                "bounce",
                &bounce(&format!("user{n}@example.com"), "m1", FULL).to_string(),
            ],
        )
        .await;
    }
    world
        .store
        .read_intake("one that dies", 10, Duration::from_millis(1))
        .await
        .unwrap();
    let _reader = reader(&world, Duration::from_millis(20));
    eventually("an empty stream", async || {
        (length(&world, "intake").await == 0).then_some(())
    })
    .await;
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
    assert_eq!(together, [1; 5], "each was taken in by a call of its own");
}

#[tokio::test]
async fn a_reader_that_stops_leaves_what_it_has_not_taken_over_to_the_next() {
    let world = World::new().await;
    world.store.open_intake().await.unwrap();
    for n in 0..12 {
        add(
            &world,
            &[
                "bounce",
                &bounce(&format!("user{n}@example.com"), "m1", FULL).to_string(),
            ],
        )
        .await;
    }
    world
        .store
        .read_intake("one that dies", 100, Duration::from_millis(1))
        .await
        .unwrap();
    let (proxy, stop) = (RedisProxy::before(&redis::url()), CancellationToken::new());
    let stopping = stop.clone();
    proxy.chance(move |request| {
        if request == "schedule" {
            stopping.cancel();
        }
        None
    });
    let store = world.store_at(&proxy.url(), Duration::from_secs(30)).await;
    in_time(
        "the reader to stop",
        reader_on(&store, 5)
            .taking_over_after(Duration::ZERO)
            .run(stop),
    )
    .await;
    assert_eq!(
        length(&world, "intake").await,
        11,
        "what was under way is dealt with, and no more"
    );
    assert_eq!(length(&world, "intake:aside").await, 0);

    let _next = reader(&world, Duration::ZERO);
    eventually("an empty stream", async || {
        (length(&world, "intake").await == 0).then_some(())
    })
    .await;
    assert_eq!(world.events_of(EventKind::JobScheduled).await.len(), 12);
}

#[tokio::test]
async fn while_the_store_is_away_no_entry_becomes_one_that_kills_its_readers() {
    for program in programs() {
        let servers = Servers::new(&program);
        let master = servers.start(&[]).await;
        let replica = servers.start_replica(master, &[]).await;
        let redis = format!("url = \"redis://127.0.0.1:{master}\"\ndurability = \"replicas:1\"\n");
        let world = World::on(connections(&redis), Settings::default()).await;
        let key = |stream: &str| format!("{}:{stream}", world.prefix);
        let length = |stream| servers.cli(master, &["XLEN", &key(stream)]).unwrap();
        // The stream can be read all the time; only the yes is missing.
        servers.signal(replica, "-STOP");
        servers
            .cli(
                master,
                &["XADD", &key("intake"), "*", "recipient", JO, "reply", FULL],
            )
            .unwrap();
        let _reader = reader(&world, Duration::from_millis(1));
        let claims = || {
            let told = servers.cli(master, &["INFO", "commandstats"]).unwrap();
            let calls = told
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
async fn a_scheduler_that_is_told_not_to_leaves_the_stream_alone() {
    let world = World::new().await;
    add(&world, &["bounce", &bounce(JO, "m1", FULL).to_string()]).await;
    let (url, prefix, shards, port) = (
        redis::url(),
        &world.prefix,
        world.store.shards(),
        free_port(),
    );
    let scheduler = Redeliver::start(
        "scheduler",
        &format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[scheduler]\nlisten = \"127.0.0.1:{port}\"\n\
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
