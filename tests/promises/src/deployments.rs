//! The store works the same on one Redis server, on a master with Sentinel and on a Cluster. After
//! a failover it continues with every write that a replica had confirmed. All keys of a shard are
//! in one slot.

use std::fs;
use std::time::{Duration, Instant};

use config::model::Config;
use domain::account::Accounts;
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::event::{Event, EventKind};
use domain::outcome::Outcome;
use domain::pace::PaceLimits;
use domain::reply::Reply;
use domain::standing::Standing;
use futures::future::join;
use harness::bounce::{DISABLED, FULL, FULL_FOR_GOOD, OK, TOO_BIG, UNKNOWN, bounce};
use harness::port::free_port;
use harness::servers::{Cluster, Sentinel, Servers, programs};
use harness::wait::{eventually, in_time};
use harness::world::{DAY, HOUR, SHARDS, Settings, World, all_events, id};
use policy::table::Table;
use serde_json::json;
use store::connection::pool::Connections;
use store::error::StoreError;
use store::facts::FactAnswer;
use store::handle::Store;
use store::intake::IntakeEntry;
use store::lease::Extended;
use store::repair::Repaired;
use store::schedule::Answer;
use store::server_checks::Severity;
use store::settle::Settled;
use system::clock::SystemClock;
use tokio::time::sleep;

mod ill_masters;
mod moving_slots;
mod slots;
mod tls;

use slots::{each_shard_has_one_slot, every_script_has_run};

/// The password of the user that the documents name.
const PASSWORD: &str = "geheim";

/// How many addresses are used. Each shard has some of them.
const ADDRESSES: usize = 16;

/// How many bounces have to be acknowledged before a failover, and how many after it.
const ACKNOWLEDGED: usize = 24;

/// Short limits, so that a failover is noticed soon.
const LIMITS: &str =
    "connect_timeout = \"2s\"\nresponse_timeout = \"2s\"\ndurability_timeout = \"500ms\"\n";

/// The configuration of a file with these connection settings.
pub(crate) fn configured(redis: &str) -> Config {
    configured_within(LIMITS, redis)
}

fn configured_within(limits: &str, redis: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("redeliver.toml");
    fs::write(&file, format!("[redis]\n{limits}{redis}")).unwrap();
    Config::load(Some(&file)).unwrap_or_else(|faults| panic!("{faults}"))
}

pub(crate) fn connections(redis: &str) -> Connections {
    connected(&configured(redis))
}

fn connected(config: &Config) -> Connections {
    Connections::new(&config.redis.servers(), config.redis.connections()).unwrap()
}

async fn world_on(redis: &str) -> World {
    World::on(connections(redis), Settings::default()).await
}

/// The line of users.acl from the documentation, with the password and the prefix of the tests.
fn user() -> String {
    let page = include_str!("../../../docs/guides/deployment.md");
    let line = page
        .lines()
        .find(|line| line.starts_with("user redeliver "))
        .unwrap();
    line.replace("PASSWORD", PASSWORD)
        .replace("~rd:*", "~test*")
}

fn login() -> String {
    format!("username = \"redeliver\"\npassword = \"{PASSWORD}\"\n")
}

fn address(n: usize) -> String {
    format!("jo@d{n}.example.com")
}

/// Calls every verb of the store, on all shards.
async fn use_every_verb(world: &World) {
    let mut due = world.now();
    for address in (0..ADDRESSES).map(address) {
        let Answer::Scheduled { due: at } =
            world.post_bounce(bounce(&address, "m1", DISABLED)).await
        else {
            panic!()
        };
        due = due.max(at);
        assert!(matches!(
            world.post_bounce(bounce(&address, "m2", FULL)).await,
            Answer::Joined { .. }
        ));
        assert_eq!(
            world.post_bounce(bounce(&address, "m2", FULL)).await,
            Answer::Duplicate
        );
    }
    assert!(matches!(
        world
            .post_bounce(bounce("gone@d1.example.com", "m1", UNKNOWN))
            .await,
        Answer::Retired(_)
    ));
    assert!(matches!(
        world
            .post_bounce(bounce("full@d2.example.com", "m1", FULL_FOR_GOOD))
            .await,
        Answer::Retired(_)
    ));
    let asked = [
        id("gone@d1.example.com"),
        id("full@d2.example.com"),
        id(&address(0)),
    ];
    let standings = world.store.standings(&asked).await.unwrap();
    assert_eq!(
        standings.iter().map(Option::is_some).collect::<Vec<_>>(),
        [true, true, false]
    );

    world.clock.set(due);
    let mut leased = world.claim().await;
    assert_eq!(leased.len(), ADDRESSES);
    assert_eq!(world.store.leased(100).await.unwrap().len(), ADDRESSES);
    for job in &leased {
        assert_eq!(world.extend(&job.lease).await, Extended::Yes(Vec::new()));
    }
    assert!(world.release(&leased.pop().unwrap().lease).await);
    world.mail.reply_in_turn(&[FULL, UNKNOWN]);
    for job in leased {
        let settlement = world.attempt(job).await;
        assert_eq!(world.settle(&settlement).await, Settled::Done);
        assert_eq!(world.settle(&settlement).await, Settled::Stale);
    }
    assert_eq!(world.work().await, 1, "the job that was given back");

    let events = world.events().await;
    let count = |kind| events.iter().filter(|event| event.kind == kind).count();
    assert_eq!(
        (
            count(EventKind::JobScheduled),
            count(EventKind::MessageJoined)
        ),
        (ADDRESSES, ADDRESSES)
    );
    assert_eq!(
        (
            count(EventKind::JobClosed),
            count(EventKind::AttemptDeferred)
        ),
        (ADDRESSES - 2, 2)
    );
    assert_eq!(count(EventKind::AddressRetired), 3);

    world.clock.set(world.now().plus(400 * DAY));
    assert_eq!(world.store.reinstate().await.unwrap(), 1);
    assert_eq!(
        world.standing("full@d2.example.com").await,
        Standing::Active
    );
    world.store.trim_delivered().await.unwrap();
    world.store.trim_journal(DAY).await.unwrap();
    assert!(
        world
            .store
            .claim_occurrence("task", world.now(), DAY)
            .await
            .unwrap()
    );
    assert!(
        !world
            .store
            .claim_occurrence("task", world.now(), DAY)
            .await
            .unwrap()
    );
    world.store.journal_ends().await.unwrap();
    assert_eq!(
        world
            .post_bounce(bounce("big@d3.example.com", "m1", TOO_BIG))
            .await,
        Answer::Dropped
    );
    use_every_verb_of_operators(world, due).await;
    let destination = Destination::named("d9.example.com");
    let shard = destination.shard(world.store.shards());
    assert_eq!(
        world
            .store
            .note_silence(shard, &[(destination, DAY)])
            .await
            .unwrap(),
        [true]
    );
    world.store.ping().await.unwrap();
}

async fn use_every_verb_of_operators(world: &World, tried: Timestamp) {
    let (store, destination) = (&world.store, Destination::named("d3.example.com"));
    store.hold(&destination, None, "they asked").await.unwrap();
    assert_eq!(
        store.destinations_after(None, 1).await.unwrap().0[0].destination,
        destination
    );
    assert!(store.unhold(&destination).await.unwrap());
    for limits in [
        Some(PaceLimits {
            rate: 1.0,
            burst: 2.0,
            window: 3,
        }),
        None,
    ] {
        store.override_limits(&destination, limits).await.unwrap();
        assert_eq!(
            store.pace(&destination).await.unwrap().override_limits,
            limits
        );
    }
    store.waiting(&destination).await.unwrap();
    assert!(store.knows(&destination).await.unwrap());
    assert!(!store.tally(&destination, tried).await.unwrap().is_empty());
    assert!(!store.put_back(&id("jo@d3.example.com")).await.unwrap());
    assert_eq!(store.release_route("relay").await.unwrap(), 0);
    let quarantined = store.quarantine(&Accounts::All, None, 10).await;
    assert_eq!(quarantined.unwrap().jobs, []);
    assert_eq!(store.limit().await.unwrap(), 0);
    let report = store.check_servers().await.unwrap();
    assert!(report.not_checked.is_empty(), "{:?}", report.not_checked);
    store.note_findings(&report).await.unwrap();
    assert_eq!(
        store.findings().await.unwrap().len(),
        report.at_least(Severity::Warn).count()
    );
    let claim = store
        .claim_request("an event")
        .await
        .unwrap()
        .expect("no other request has this claim");
    assert!(store.release_request(&claim).await.unwrap());
    for shard in 0..store.shards() {
        assert_eq!(store.repair(shard).await.unwrap(), Repaired::default());
        store.trim_marks(shard).await.unwrap();
        store.trim_trouble(shard).await.unwrap();
        store.check_for_lost_writes(shard).await.unwrap();
    }
}

/// Calls the verbs for facts, for late reports, for readers of the stream and for upkeep while
/// workers run.
async fn use_the_verbs_for_reports(redis: &str) {
    let world = World::on(
        connections(redis),
        Settings {
            confirm: DAY,
            ..Settings::default()
        },
    )
    .await;
    world
        .mail
        .set_script(|_| Outcome::Accepted(Reply::parse(OK)));
    for address in (0..ADDRESSES).map(address) {
        world.post_bounce(bounce(&address, "m1", FULL)).await;
    }
    world.clock.advance(30 * HOUR);
    let mut leased = world.claim().await;
    for shard in 0..SHARDS {
        assert_eq!(
            world.store.repair(shard).await.unwrap(),
            Repaired::default()
        );
    }
    let complainer = leased.pop().unwrap();
    let fact = json!({"type": "complaint", "recipient": complainer.job.id.recipient.as_str()});
    assert!(matches!(
        world.report_fact(fact).await,
        FactAnswer::Suppressed(_)
    ));
    let asked = [(&complainer.job.id, &complainer.lease.destination)];
    assert_eq!(
        world.store.under_way(&asked).await.unwrap().len(),
        1,
        "its attempt continues"
    );
    let accepted = leased[0].job.id.clone();
    for job in leased {
        let settlement = world.attempt(job).await;
        assert_eq!(world.settle(&settlement).await, Settled::Done);
    }
    let mut report = bounce(accepted.recipient.as_str(), "m1", FULL);
    report["occurred_at"] = json!(world.now());
    let answer = world.post_bounce(report).await;
    assert!(matches!(answer, Answer::Deferred { .. }), "{answer:?}");
    let entry = IntakeEntry {
        id: "1-1".to_owned(),
        fields: vec![(b"reply".to_vec(), b"?".to_vec())],
    };
    let event = Event::intake_refused("no bounce".to_owned());
    world
        .store
        .put_aside(&entry, "no bounce", &event)
        .await
        .unwrap();
}

/// Checks that the store of `world` cannot be opened with another number of shards.
async fn refuses_other_shards(world: &World, connections: Connections) {
    let limits = Config::embedded().limits(&Table::embedded());
    let opened = Store::open(
        connections,
        &world.prefix,
        SHARDS + 1,
        limits,
        std::sync::Arc::new(SystemClock),
    )
    .await;
    let Err(StoreError::Mismatch(why)) = opened else {
        panic!("the store opened with another number of shards")
    };
    assert!(
        why.contains("has 4 shards, the configuration says 5: set redis.shards = 4"),
        "{why}"
    );
}

/// Posts bounces until `ACKNOWLEDGED` more are acknowledged. A bounce without an acknowledgement is
/// posted again.
async fn acknowledge(world: &World, acknowledged: &mut Vec<String>) {
    let goal = acknowledged.len() + ACKNOWLEDGED;
    while acknowledged.len() < goal {
        let address = format!(
            "jo{}@d{}.example.com",
            acknowledged.len(),
            acknowledged.len() % ADDRESSES
        );
        eventually("a bounce is acknowledged", async || {
            world
                .try_post_bounce(bounce(&address, "m1", FULL))
                .await
                .ok()
        })
        .await;
        acknowledged.push(address);
    }
}

/// Checks that each acknowledged bounce has its message, and started exactly one job.
async fn all_are_there(world: &World, acknowledged: &[String]) {
    for address in acknowledged {
        assert_eq!(
            world.waiting(address).await,
            ["m1"],
            "{address} was acknowledged"
        );
    }
    let scheduled = all_events(&world.store)
        .await
        .into_iter()
        .filter(|event| event.kind == EventKind::JobScheduled);
    assert_eq!(
        scheduled.count(),
        acknowledged.len(),
        "each bounce started one job"
    );
}

#[tokio::test]
async fn the_documented_redis_permissions_are_enough_and_connections_are_kept_without_extra_calls()
{
    for program in programs() {
        let servers = Servers::new(&program);
        let port = servers.start(&[&user()]).await;
        let redis = format!("url = \"redis://127.0.0.1:{port}\"\n{}", login());
        let world = world_on(&redis).await;
        in_time("all verbs", use_every_verb(&world)).await;
        refuses_other_shards(&world, connections(&redis)).await;
        let statistics = servers.cli(port, &["INFO", "commandstats"]).unwrap();
        assert!(!statistics.contains("cmdstat_unwatch"), "{statistics}");
        let calls = |name: &str| {
            let line = statistics
                .lines()
                .find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
            line.map_or(0, |rest| {
                rest.split(',').next().unwrap().parse::<usize>().unwrap()
            })
        };
        assert!(
            calls("ping") < 20,
            "only the test harness sends PING: {statistics}"
        );
        assert!(calls("evalsha") > 100, "{statistics}");
        assert!(calls("hello") < 20, "connections are kept: {statistics}");
    }
}

#[tokio::test]
async fn without_the_permission_for_eval_all_verbs_work_too() {
    for program in programs() {
        let servers = Servers::new(&program);
        let without_eval = user().replace(" +eval ", " ");
        assert_ne!(without_eval, user());
        let port = servers.start(&[&without_eval]).await;
        let redis = format!("url = \"redis://127.0.0.1:{port}\"\n{}", login());
        in_time("all verbs", use_every_verb(&world_on(&redis).await)).await;
    }
}

#[tokio::test]
async fn a_wrong_password_stops_the_start_but_a_running_process_waits_for_the_right_one() {
    for program in programs() {
        let servers = Servers::new(&program);
        let port = servers.start(&[&user()]).await;
        let wrong = connections(&format!(
            "url = \"redis://redeliver:falsch@127.0.0.1:{port}\"\n"
        ));
        let Err(StoreError::Forbidden(why)) = wrong.info("server").await else {
            panic!("the wrong password was accepted")
        };
        assert!(why.starts_with("WRONGPASS: "), "{why}");

        let right = connections(&format!("url = \"redis://127.0.0.1:{port}\"\n{}", login()));
        right.info("server").await.unwrap();
        let set_password = |command: &str| {
            servers
                .cli(port, &["ACL", "SETUSER", "redeliver", command])
                .unwrap()
        };
        set_password(&format!("<{PASSWORD}"));
        servers
            .cli(port, &["CLIENT", "KILL", "USER", "redeliver"])
            .unwrap();
        let is_refused = async || {
            matches!(right.info("server").await,
            Err(StoreError::Unavailable(why)) if why.starts_with("WRONGPASS: "))
        };
        eventually("the connection is refused", async || {
            is_refused().await.then_some(())
        })
        .await;
        set_password(&format!(">{PASSWORD}"));
        right.info("server").await.unwrap();
    }
}

#[tokio::test]
async fn with_sentinel_a_failover_loses_nothing_that_a_replica_confirmed() {
    for program in programs() {
        let sentinel = Sentinel::start(&program, &[&user()]).await;
        let nodes = sentinel
            .sentinels
            .map(|port| format!("\"redis://127.0.0.1:{port}\""))
            .join(", ");
        let redis = format!(
            "sentinel = {{ master = \"mail\", nodes = [{nodes}] }}\nsentinel_password = \"{}\"\n{}",
            harness::servers::SENTINEL_PASSWORD,
            login()
        );
        let world = world_on(&redis).await;
        in_time("all verbs", use_every_verb(&world)).await;
        refuses_other_shards(&world, connections(&redis)).await;

        let world = world_on(&format!("{redis}durability = \"replicas:1\"\n")).await;
        let mut acknowledged = Vec::new();
        acknowledge(&world, &mut acknowledged).await;
        sentinel.servers.kill(sentinel.master);
        eventually("a new master", async || {
            (sentinel.named_master()? != sentinel.master).then_some(())
        })
        .await;
        let master = sentinel.named_master().unwrap();
        // The old master starts again empty. It becomes the replica that confirms writes.
        sentinel
            .servers
            .start_on(
                sentinel.master,
                &[&user(), &format!("replicaof 127.0.0.1 {master}")],
            )
            .await;
        acknowledge(&world, &mut acknowledged).await;
        all_are_there(&world, &acknowledged).await;
    }
}

#[tokio::test]
async fn a_write_to_a_master_that_was_replaced_while_it_was_suspended_is_not_acknowledged() {
    let sentinel = Sentinel::start(&programs()[0], &[]).await;
    let servers = &sentinel.servers;
    // One of the replicas is promoted. The other follows the old master for a little longer and
    // confirms its writes.
    let replicas = [
        sentinel.replica,
        servers.start_replica(sentinel.master, &[]).await,
    ];
    let nodes = sentinel
        .sentinels
        .map(|port| format!("\"redis://127.0.0.1:{port}\""))
        .join(", ");
    let password = harness::servers::SENTINEL_PASSWORD;
    let redis = format!(
        "sentinel = {{ master = \"mail\", nodes = [{nodes}] }}\n\
         sentinel_password = \"{password}\"\n\
         durability = \"replicas:1\"\n"
    );
    let config = configured_within(
        "response_timeout = \"20s\"\ndurability_timeout = \"500ms\"\n",
        &redis,
    );
    let world = World::on(connected(&config), Settings::default()).await;
    let mut acknowledged = Vec::new();
    acknowledge(&world, &mut acknowledged).await;
    // A read that waits for new entries does not count as silence of the server.
    world.store.open_intake().await.unwrap();
    let quick = async {
        sleep(Duration::from_millis(900)).await;
        let asked = Instant::now();
        acknowledge(&world, &mut acknowledged).await;
        asked.elapsed()
    };
    let (read, took) = join(
        world.store.read_intake("reader", 1, Duration::from_secs(1)),
        quick,
    )
    .await;
    assert_eq!(read.unwrap(), []);
    assert!(took < Duration::from_secs(2), "{took:?}");

    servers.signal(sentinel.master, "-STOP");
    let is_promoted = |port| {
        servers
            .cli(port, &["ROLE"])
            .is_some_and(|role| role.starts_with("master"))
    };
    let thaw = async {
        eventually("a new master", async || {
            replicas.into_iter().any(is_promoted).then_some(())
        })
        .await;
        servers.signal(sentinel.master, "-CONT");
    };
    let (answer, ()) = join(
        world.try_post_bounce(bounce("late@d0.example.com", "m1", FULL)),
        thaw,
    )
    .await;
    let Err(StoreError::Unavailable(why)) = answer else {
        panic!("the bounce was acknowledged: {answer:?}")
    };
    assert!(why.contains("has been replaced as master"), "{why}");
    acknowledge(&world, &mut acknowledged).await;
    all_are_there(&world, &acknowledged).await;
}

#[tokio::test]
async fn an_error_names_sentinels_that_do_not_answer_or_do_not_know_the_master() {
    for program in programs() {
        let sentinel = Sentinel::start(&program, &[]).await;
        let port = sentinel.sentinels[0];
        let password = harness::servers::SENTINEL_PASSWORD;
        let ask = async |port: u16, master: &str| {
            let nodes = format!("nodes = [\"redis://:{password}@127.0.0.1:{port}\"]");
            connections(&format!("sentinel = {{ master = \"{master}\", {nodes} }}"))
                .info("server")
                .await
        };
        assert!(ask(port, "mail").await.is_ok());
        let Err(StoreError::Unavailable(why)) = ask(port, "male").await else {
            panic!()
        };
        assert_eq!(
            why,
            format!(
                "the sentinels 127.0.0.1:{port} know no master called male; \
                 redis.sentinel.master has to be its name there"
            )
        );
        let closed = free_port();
        let Err(StoreError::Unavailable(why)) = ask(closed, "mail").await else {
            panic!()
        };
        assert!(
            why.starts_with(&format!("no sentinel of 127.0.0.1:{closed} answered: ")),
            "{why}"
        );
        assert!(!why.contains(password));
    }
}

#[tokio::test]
async fn in_a_cluster_each_shard_has_one_slot_and_a_failover_loses_nothing_a_replica_confirmed() {
    for program in programs() {
        let cluster = Cluster::start(&program, &[&user()]).await;
        let nodes = cluster.ports[..2]
            .iter()
            .map(|port| format!("\"redis://127.0.0.1:{port}\""));
        let redis = format!(
            "cluster = [{}]\n{}",
            nodes.collect::<Vec<_>>().join(", "),
            login()
        );
        let world = world_on(&redis).await;
        in_time("all verbs", use_every_verb(&world)).await;
        refuses_other_shards(&world, connections(&redis)).await;

        let world = world_on(&format!("{redis}durability = \"replicas:1\"\n")).await;
        in_time("all verbs", use_every_verb(&world)).await;
        in_time("the verbs for reports", use_the_verbs_for_reports(&redis)).await;
        every_script_has_run(&cluster);
        each_shard_has_one_slot(&cluster, &world.prefix);

        let world = world_on(&format!("{redis}durability = \"replicas:1\"\n")).await;
        let mut acknowledged = Vec::new();
        acknowledge(&world, &mut acknowledged).await;
        let killed = cluster.ports[0];
        cluster.servers.kill(killed);
        let rest = &cluster.ports[1..];
        eventually("a replica takes over", async || {
            let masters = rest.iter().filter(|port| cluster.is_master(**port)).count();
            (masters == 3).then_some(())
        })
        .await;
        cluster.restart(killed, &[&user()]).await;
        acknowledge(&world, &mut acknowledged).await;
        all_are_there(&world, &acknowledged).await;
    }
}
