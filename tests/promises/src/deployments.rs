//! One server, a master that sentinels watch, a Cluster: the store is the same on each, and goes on
//! after a failover with all that it had acknowledged. Keys of one shard share a slot.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use config::model::Config;
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::event::{Event, EventKind};
use domain::outcome::Outcome;
use domain::pace::PaceLimits;
use domain::reply::Reply;
use domain::standing::Standing;
use futures::future::join;
use harness::bounce::{DISABLED, FULL, FULL_FOR_GOOD, OK, TOO_BIG, UNKNOWN, bounce};
use harness::servers::{Cluster, Sentinel, Servers, free_port, programs};
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
use store::scripts;
use store::server_checks::Severity;
use store::settle::Settled;
use system::clock::SystemClock;
use tokio::time::sleep;

mod ill_masters;
mod moving_slots;
mod tls;

/// The password of the user that the documents name.
const PASSWORD: &str = "geheim";

/// Addresses enough for each shard to have some.
const ADDRESSES: usize = 16;

/// Bounces that have to be acknowledged before and after a failover.
const ACKNOWLEDGED: usize = 24;

/// Short limits, so that a failover is noticed soon.
const LIMITS: &str =
    "connect_timeout = \"2s\"\nresponse_timeout = \"2s\"\ndurability_timeout = \"500ms\"\n";

/// Connections as a configuration file would have them made.
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

/// The line of users.acl that the documents give, for the tests' password and prefix.
fn user() -> String {
    let page = include_str!("../../../docs/deployment.md");
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

/// Every verb of the store, on all shards.
async fn use_every_verb(world: &World) {
    let mut due = world.now();
    for address in (0..ADDRESSES).map(address) {
        let Answer::Scheduled { due: at } = world.take_in(bounce(&address, "m1", DISABLED)).await
        else {
            panic!()
        };
        due = due.max(at);
        assert!(matches!(
            world.take_in(bounce(&address, "m2", FULL)).await,
            Answer::Joined { .. }
        ));
        assert_eq!(
            world.take_in(bounce(&address, "m2", FULL)).await,
            Answer::Duplicate
        );
    }
    assert!(matches!(
        world
            .take_in(bounce("gone@d1.example.com", "m1", UNKNOWN))
            .await,
        Answer::Retired(_)
    ));
    assert!(matches!(
        world
            .take_in(bounce("full@d2.example.com", "m1", FULL_FOR_GOOD))
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
    world.mail.says_in_turn(&[FULL, UNKNOWN]);
    for job in leased {
        let settlement = world.attempt(job).await;
        assert_eq!(world.settle(&settlement).await, Settled::Done);
        assert_eq!(world.settle(&settlement).await, Settled::Stale);
    }
    assert_eq!(world.work().await, 1, "the one that was given back");

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
            .take_in(bounce("big@d3.example.com", "m1", TOO_BIG))
            .await,
        Answer::Dropped
    );
    use_every_verb_of_operators(world, due).await;
    let there = Destination::named("d9.example.com");
    let shard = there.shard(world.store.shards());
    assert_eq!(
        world
            .store
            .note_silence(shard, &[(there, DAY)])
            .await
            .unwrap(),
        [true]
    );
    world.store.ping().await.unwrap();
}

async fn use_every_verb_of_operators(world: &World, tried: Timestamp) {
    let (store, there) = (&world.store, Destination::named("d3.example.com"));
    store.hold(&there, None, "they asked").await.unwrap();
    assert_eq!(
        store.destinations_after(None, 1).await.unwrap().0[0].destination,
        there
    );
    assert!(store.unhold(&there).await.unwrap());
    for limits in [
        Some(PaceLimits {
            rate: 1.0,
            burst: 2.0,
            window: 3,
        }),
        None,
    ] {
        store.override_limits(&there, limits).await.unwrap();
        assert_eq!(store.pace(&there).await.unwrap().override_limits, limits);
    }
    store.waiting(&there).await.unwrap();
    assert!(store.knows(&there).await.unwrap());
    assert!(!store.tally(&there, tried).await.unwrap().is_empty());
    assert!(!store.put_back(&id("jo@d3.example.com")).await.unwrap());
    assert_eq!(store.quarantine(None, 10).await.unwrap(), []);
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
        .expect("nobody else hears of it");
    assert!(store.release_request(&claim).await.unwrap());
    for shard in 0..store.shards() {
        assert_eq!(store.repair(shard).await.unwrap(), Repaired::default());
        store.trim_marks(shard).await.unwrap();
        store.trim_trouble(shard).await.unwrap();
        store.look(shard).await.unwrap();
    }
}

/// What facts, late reports, readers of the stream and upkeep beside workers ask of the store.
async fn use_the_verbs_of_news(redis: &str) {
    let world = World::on(
        connections(redis),
        Settings {
            confirm: DAY,
            ..Settings::default()
        },
    )
    .await;
    world.mail.answers(|_| Outcome::Accepted(Reply::parse(OK)));
    for address in (0..ADDRESSES).map(address) {
        world.take_in(bounce(&address, "m1", FULL)).await;
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
    assert!(matches!(world.tell(fact).await, FactAnswer::Suppressed(_)));
    let asked = [(&complainer.job.id, &complainer.lease.destination)];
    assert_eq!(
        world.store.under_way(&asked).await.unwrap().len(),
        1,
        "its attempt goes on"
    );
    let accepted = leased[0].job.id.clone();
    for job in leased {
        let settlement = world.attempt(job).await;
        assert_eq!(world.settle(&settlement).await, Settled::Done);
    }
    let mut report = bounce(accepted.recipient.as_str(), "m1", FULL);
    report["occurred_at"] = json!(world.now());
    let answer = world.take_in(report).await;
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

/// Opens the store of `world` with another number of shards, and reads what it says.
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
        panic!("it opened")
    };
    assert!(
        why.contains("has 4 shards, the configuration says 5: set redis.shards = 4"),
        "{why}"
    );
}

/// Takes bounces in until so many more are acknowledged; those that are not are taken in again.
async fn acknowledge(world: &World, acknowledged: &mut Vec<String>) {
    let goal = acknowledged.len() + ACKNOWLEDGED;
    while acknowledged.len() < goal {
        let address = format!(
            "jo{}@d{}.example.com",
            acknowledged.len(),
            acknowledged.len() % ADDRESSES
        );
        eventually("a bounce is acknowledged", async || {
            world.try_take_in(bounce(&address, "m1", FULL)).await.ok()
        })
        .await;
        acknowledged.push(address);
    }
}

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
    assert_eq!(scheduled.count(), acknowledged.len(), "each once");
}

#[tokio::test]
async fn one_server_needs_no_more_than_the_documented_rights_and_asks_nothing_between_calls() {
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
            "only the harness asks whether it is there: {statistics}"
        );
        assert!(calls("evalsha") > 100, "{statistics}");
        assert!(calls("hello") < 20, "connections are kept: {statistics}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_at_the_start_and_waited_for_while_we_run() {
    for program in programs() {
        let servers = Servers::new(&program);
        let port = servers.start(&[&user()]).await;
        let wrong = connections(&format!(
            "url = \"redis://redeliver:falsch@127.0.0.1:{port}\"\n"
        ));
        let Err(StoreError::Forbidden(why)) = wrong.info("server").await else {
            panic!("it was let in")
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
        let away = async || matches!(right.info("server").await, Err(StoreError::Unavailable(why)) if why.starts_with("WRONGPASS: "));
        eventually("it is turned away", async || away().await.then_some(())).await;
        set_password(&format!(">{PASSWORD}"));
        right.info("server").await.unwrap();
    }
}

#[tokio::test]
async fn behind_sentinels_a_failover_loses_nothing_that_a_replica_confirmed() {
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
        // The old one comes back empty, and becomes the replica that confirms.
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
async fn what_a_master_confirms_that_was_replaced_while_it_stood_still_is_not_acknowledged() {
    let sentinel = Sentinel::start(&programs()[0], &[]).await;
    let servers = &sentinel.servers;
    // One of them is promoted. The other follows the old master for a little longer, and confirms
    // its writes.
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
        "sentinel = {{ master = \"mail\", nodes = [{nodes}] }}\nsentinel_password = \"{password}\"\n\
         durability = \"replicas:1\"\n"
    );
    let config = configured_within(
        "response_timeout = \"20s\"\ndurability_timeout = \"500ms\"\n",
        &redis,
    );
    let world = World::on(connected(&config), Settings::default()).await;
    let mut acknowledged = Vec::new();
    acknowledge(&world, &mut acknowledged).await;
    // A read that waits for something to come is no silence.
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
        world.try_take_in(bounce("late@d0.example.com", "m1", FULL)),
        thaw,
    )
    .await;
    let Err(StoreError::Unavailable(why)) = answer else {
        panic!("it was acknowledged: {answer:?}")
    };
    assert!(why.contains("has been replaced as master"), "{why}");
    acknowledge(&world, &mut acknowledged).await;
    all_are_there(&world, &acknowledged).await;
}

#[tokio::test]
async fn sentinels_that_are_away_or_know_no_such_master_are_told_as_such() {
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
                "the sentinels 127.0.0.1:{port} know no master called male; redis.sentinel.master has to be its name there"
            )
        );
        let nobody = free_port();
        let Err(StoreError::Unavailable(why)) = ask(nobody, "mail").await else {
            panic!()
        };
        assert!(
            why.starts_with(&format!("no sentinel of 127.0.0.1:{nobody} answered: ")),
            "{why}"
        );
        assert!(!why.contains(password));
    }
}

#[tokio::test]
async fn in_a_cluster_each_shard_has_one_slot_and_a_failover_loses_nothing_that_a_replica_confirmed()
 {
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
        in_time("the rest of them", use_the_verbs_of_news(&redis)).await;
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

/// Has every script been run here? One that touches keys of two slots is refused by a Cluster.
fn every_script_has_run(cluster: &Cluster) {
    for (verb, hash) in scripts::hashes() {
        let is_known = |port: &u16| {
            cluster
                .servers
                .cli(*port, &["SCRIPT", "EXISTS", hash])
                .is_some_and(|is| is == "1")
        };
        assert!(cluster.ports.iter().any(is_known), "{verb} was not called");
    }
}

/// Looks where all keys of a store are, and that every kind of key is among them.
fn each_shard_has_one_slot(cluster: &Cluster, prefix: &str) {
    let (mut slots, mut kinds) = (BTreeMap::<String, BTreeSet<String>>::new(), BTreeSet::new());
    for port in cluster
        .ports
        .iter()
        .filter(|port| cluster.is_master(**port))
    {
        for key in cluster
            .servers
            .cli(*port, &["KEYS", &format!("{prefix}:*")])
            .unwrap()
            .lines()
        {
            let Some((tag, kind)) = key
                .split_once('{')
                .and_then(|(_, rest)| rest.split_once("}:"))
            else {
                continue;
            };
            let slot = cluster
                .servers
                .cli(*port, &["CLUSTER", "KEYSLOT", key])
                .unwrap();
            slots.entry(tag.to_owned()).or_default().insert(slot);
            kinds.insert(kind.split(':').next().unwrap().to_owned());
        }
    }
    assert_eq!(slots.len(), usize::from(SHARDS), "{slots:?}");
    assert!(
        slots.values().all(|of_shard| of_shard.len() == 1),
        "{slots:?}"
    );
    let spread: BTreeSet<_> = slots.values().collect();
    assert_eq!(spread.len(), slots.len(), "shards are spread");
    for kind in ["agenda", "barrier", "due", "jobs", "journal", "standing"] {
        assert!(kinds.contains(kind), "{kind} is not among {kinds:?}");
    }
}
