//! One server, a master that sentinels watch, a Cluster: the store is the same on each, and goes on after a failover with
//! all that it had acknowledged. Keys of one shard share a slot.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use harness::bounce::{DISABLED, FULL, FULL_FOR_GOOD, TOO_BIG, UNKNOWN, bounce};
use harness::certificates::Certificates;
use harness::servers::{Cluster, Sentinel, Servers, free_port, programs};
use harness::wait::{eventually, in_time};
use harness::world::{DAY, HOUR, SHARDS, Settings, World, all_events, id};
use shared::clock::{SystemClock, Timestamp};
use shared::config::Config;
use shared::event::EventKind;
use shared::pace::PaceLimits;
use shared::placement::Destination;
use shared::policy::Table;
use shared::standing::Standing;
use shared::store::connection::Connections;
use shared::store::keys::Keys;
use shared::store::lease::Extended;
use shared::store::repair::Repaired;
use shared::store::schedule::Answer;
use shared::store::settle::Settled;
use shared::store::{Store, StoreError};

/// The password of the user that the documents name.
const PASSWORD: &str = "geheim";

/// Addresses enough for each shard to have some.
const ADDRESSES: usize = 16;

/// Bounces that have to be acknowledged before and after a failover.
const ACKNOWLEDGED: usize = 24;

/// Short limits, so that a failover is noticed soon.
const LIMITS: &str = "connect_timeout = \"2s\"\nresponse_timeout = \"2s\"\ndurability_timeout = \"500ms\"\n";

/// Connections as a configuration file would have them made.
pub(crate) fn configured(redis: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("redeliver.toml");
    fs::write(&file, format!("[redis]\n{LIMITS}{redis}")).unwrap();
    Config::load(Some(&file)).unwrap_or_else(|faults| panic!("{faults}"))
}

pub(crate) fn connections(redis: &str) -> Connections {
    let config = configured(redis);
    Connections::new(&config.redis.servers(), config.redis.connections()).unwrap()
}

async fn world_on(redis: &str) -> World {
    World::on(connections(redis), Settings::default()).await
}

/// The line of users.acl that the documents give, for the tests' password and prefix.
fn user() -> String {
    let page = include_str!("../../docs/deployment.md");
    let line = page.lines().find(|line| line.starts_with("user redeliver ")).unwrap();
    line.replace("PASSWORD", PASSWORD).replace("~rd:*", "~test*")
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
        let Answer::Scheduled { due: at } = world.take_in(bounce(&address, "m1", DISABLED)).await else { panic!() };
        due = due.max(at);
        assert!(matches!(world.take_in(bounce(&address, "m2", FULL)).await, Answer::Joined { .. }));
        assert_eq!(world.take_in(bounce(&address, "m2", FULL)).await, Answer::Duplicate);
    }
    assert!(matches!(world.take_in(bounce("gone@d1.example.com", "m1", UNKNOWN)).await, Answer::Retired(_)));
    assert!(matches!(world.take_in(bounce("full@d2.example.com", "m1", FULL_FOR_GOOD)).await, Answer::Retired(_)));
    let asked = [id("gone@d1.example.com"), id("full@d2.example.com"), id(&address(0))];
    let standings = world.store.standings(&asked).await.unwrap();
    assert_eq!(standings.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);

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
    assert_eq!((count(EventKind::JobScheduled), count(EventKind::MessageJoined)), (ADDRESSES, ADDRESSES));
    assert_eq!((count(EventKind::JobClosed), count(EventKind::AttemptDeferred)), (ADDRESSES - 2, 2));
    assert_eq!(count(EventKind::AddressRetired), 3);

    world.clock.set(world.now().plus(400 * DAY));
    assert_eq!(world.store.reinstate().await.unwrap(), 1);
    assert_eq!(world.standing("full@d2.example.com").await, Standing::Active);
    world.store.trim_delivered(world.now()).await.unwrap();
    world.store.trim_journal(DAY).await.unwrap();
    assert!(world.store.claim_occurrence("task", world.now(), DAY).await.unwrap());
    assert!(!world.store.claim_occurrence("task", world.now(), DAY).await.unwrap());
    world.store.journal_ends().await.unwrap();
    assert_eq!(world.take_in(bounce("big@d3.example.com", "m1", TOO_BIG)).await, Answer::Dropped);
    use_every_verb_of_operators(world, due).await;
    world.store.ping().await.unwrap();
}

async fn use_every_verb_of_operators(world: &World, tried: Timestamp) {
    let (store, there) = (&world.store, Destination::named("d3.example.com"));
    store.hold(&there, None, "they asked").await.unwrap();
    assert!(store.unhold(&there).await.unwrap());
    for limits in [Some(PaceLimits { rate: 1.0, burst: 2.0, window: 3 }), None] {
        store.override_limits(&there, limits).await.unwrap();
        assert_eq!(store.pace(&there).await.unwrap().override_limits, limits);
    }
    store.waiting(&there).await.unwrap();
    assert!(store.knows(&there).await.unwrap());
    assert!(!store.tally(&there, tried).await.unwrap().is_empty());
    assert!(!store.put_back(&id("jo@d3.example.com")).await.unwrap());
    assert_eq!(store.quarantine(None, 10).await.unwrap(), []);
    assert_eq!(store.limit().await.unwrap(), 0);
    for shard in 0..store.shards() {
        assert_eq!(store.repair(shard).await.unwrap(), Repaired::default());
        store.trim_marks(shard).await.unwrap();
    }
}

/// Opens the store of `world` with another number of shards, and reads what it says.
async fn refuses_other_shards(world: &World, connections: Connections) {
    let limits = Config::embedded().limits(&Table::embedded());
    let opened = Store::open(connections, &world.prefix, SHARDS + 1, limits, std::sync::Arc::new(SystemClock)).await;
    let Err(StoreError::Mismatch(why)) = opened else { panic!("it opened") };
    assert!(why.contains("has 4 shards, the configuration says 5: set redis.shards = 4"), "{why}");
}

/// Takes bounces in until so many more are acknowledged; those that are not are taken in again.
async fn acknowledge(world: &World, acknowledged: &mut Vec<String>) {
    let goal = acknowledged.len() + ACKNOWLEDGED;
    while acknowledged.len() < goal {
        let address = format!("jo{}@d{}.example.com", acknowledged.len(), acknowledged.len() % ADDRESSES);
        eventually("a bounce is acknowledged", async || world.try_take_in(bounce(&address, "m1", FULL)).await.ok())
            .await;
        acknowledged.push(address);
    }
}

async fn all_are_there(world: &World, acknowledged: &[String]) {
    for address in acknowledged {
        assert_eq!(world.waiting(address).await, ["m1"], "{address} was acknowledged");
    }
    let scheduled = all_events(&world.store).await.into_iter().filter(|event| event.kind == EventKind::JobScheduled);
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
            let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
            line.map_or(0, |rest| rest.split(',').next().unwrap().parse::<usize>().unwrap())
        };
        assert!(calls("ping") < 20, "only the harness asks whether it is there: {statistics}");
        assert!(calls("evalsha") > 100, "{statistics}");
        assert!(calls("hello") < 20, "connections are kept: {statistics}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_at_the_start_and_waited_for_while_we_run() {
    for program in programs() {
        let servers = Servers::new(&program);
        let port = servers.start(&[&user()]).await;
        let wrong = connections(&format!("url = \"redis://redeliver:falsch@127.0.0.1:{port}\"\n"));
        let Err(StoreError::Refused(why)) = wrong.info("server").await else { panic!("it was let in") };
        assert_eq!(why, "WRONGPASS");

        let right = connections(&format!("url = \"redis://127.0.0.1:{port}\"\n{}", login()));
        right.info("server").await.unwrap();
        let set_password = |command: &str| servers.cli(port, &["ACL", "SETUSER", "redeliver", command]).unwrap();
        set_password(&format!("<{PASSWORD}"));
        servers.cli(port, &["CLIENT", "KILL", "USER", "redeliver"]).unwrap();
        let away =
            async || matches!(right.info("server").await, Err(StoreError::Unavailable(why)) if why == "WRONGPASS");
        eventually("it is turned away", async || away().await.then_some(())).await;
        set_password(&format!(">{PASSWORD}"));
        right.info("server").await.unwrap();
    }
}

#[tokio::test]
async fn tls_is_checked_both_ways() {
    for program in programs() {
        let servers = Servers::new(&program);
        let made = Certificates::make(servers.folder());
        let [authority, certificate, key] = [&made.authority, &made.certificate, &made.key].map(|path| path.display());
        let port = free_port();
        let tls = [
            format!("tls-port {port}"),
            format!("tls-ca-cert-file {authority}"),
            format!("tls-cert-file {certificate}"),
            format!("tls-key-file {key}"),
        ];
        let mut directives: Vec<&str> = tls.iter().map(String::as_str).collect();
        directives.extend(["port 0", "bind 127.0.0.1", "save \"\""]);
        servers.spawn(port, &directives, &[]);
        let url = format!("url = \"rediss://127.0.0.1:{port}\"\n");
        let trust = format!("{url}tls_ca_file = \"{authority}\"\n");
        let own = format!("{trust}tls_cert_file = \"{certificate}\"\ntls_key_file = \"{key}\"\n");
        let asking = connections(&own);
        eventually("the server answers", async || asking.info("server").await.ok()).await;
        in_time("all verbs", use_every_verb(&world_on(&own).await)).await;

        assert!(connections(&trust).info("server").await.is_err(), "the server wants to know who we are");
        let Err(StoreError::Unavailable(why)) = connections(&url).info("server").await else { panic!("not certified") };
        assert!(why.to_lowercase().contains("certificate"), "{why}");
    }
}

#[tokio::test]
async fn behind_sentinels_a_failover_loses_nothing_that_a_replica_confirmed() {
    for program in programs() {
        let sentinel = Sentinel::start(&program, &[&user()]).await;
        let nodes = sentinel.sentinels.map(|port| format!("\"redis://127.0.0.1:{port}\"")).join(", ");
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
        eventually("a new master", async || (sentinel.named_master()? != sentinel.master).then_some(())).await;
        let master = sentinel.named_master().unwrap();
        // The old one comes back empty, and becomes the replica that confirms.
        sentinel.servers.start_on(sentinel.master, &[&user(), &format!("replicaof 127.0.0.1 {master}")]).await;
        acknowledge(&world, &mut acknowledged).await;
        all_are_there(&world, &acknowledged).await;
    }
}

#[tokio::test]
async fn sentinels_that_are_away_or_know_no_such_master_are_told_as_such() {
    for program in programs() {
        let sentinel = Sentinel::start(&program, &[]).await;
        let port = sentinel.sentinels[0];
        let password = harness::servers::SENTINEL_PASSWORD;
        let ask = async |port: u16, master: &str| {
            let nodes = format!("nodes = [\"redis://:{password}@127.0.0.1:{port}\"]");
            connections(&format!("sentinel = {{ master = \"{master}\", {nodes} }}")).info("server").await
        };
        assert!(ask(port, "mail").await.is_ok());
        let Err(StoreError::Unavailable(why)) = ask(port, "male").await else { panic!() };
        assert_eq!(
            why,
            format!(
                "the sentinels 127.0.0.1:{port} know no master called male; redis.sentinel.master has to be its name there"
            )
        );
        let nobody = free_port();
        let Err(StoreError::Unavailable(why)) = ask(nobody, "mail").await else { panic!() };
        assert!(why.starts_with(&format!("no sentinel of 127.0.0.1:{nobody} answered: ")), "{why}");
        assert!(!why.contains(password));
    }
}

#[tokio::test]
async fn in_a_cluster_each_shard_has_one_slot_and_a_failover_loses_nothing_that_a_replica_confirmed() {
    for program in programs() {
        let cluster = Cluster::start(&program, &[&user()]).await;
        let nodes = cluster.ports[..2].iter().map(|port| format!("\"redis://127.0.0.1:{port}\""));
        let redis = format!("cluster = [{}]\n{}", nodes.collect::<Vec<_>>().join(", "), login());
        let world = world_on(&redis).await;
        in_time("all verbs", use_every_verb(&world)).await;
        refuses_other_shards(&world, connections(&redis)).await;

        let world = world_on(&format!("{redis}durability = \"replicas:1\"\n")).await;
        in_time("all verbs", use_every_verb(&world)).await;
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

/// Looks where all keys of a store are, and that every kind of key is among them.
fn each_shard_has_one_slot(cluster: &Cluster, prefix: &str) {
    let (mut slots, mut kinds) = (BTreeMap::<String, BTreeSet<String>>::new(), BTreeSet::new());
    for port in cluster.ports.iter().filter(|port| cluster.is_master(**port)) {
        for key in cluster.servers.cli(*port, &["KEYS", &format!("{prefix}:*")]).unwrap().lines() {
            let Some((tag, kind)) = key.split_once('{').and_then(|(_, rest)| rest.split_once("}:")) else { continue };
            let slot = cluster.servers.cli(*port, &["CLUSTER", "KEYSLOT", key]).unwrap();
            slots.entry(tag.to_owned()).or_default().insert(slot);
            kinds.insert(kind.split(':').next().unwrap().to_owned());
        }
    }
    assert_eq!(slots.len(), usize::from(SHARDS), "{slots:?}");
    assert!(slots.values().all(|of_shard| of_shard.len() == 1), "{slots:?}");
    let spread: BTreeSet<_> = slots.values().collect();
    assert_eq!(spread.len(), slots.len(), "shards are spread");
    for kind in ["agenda", "barrier", "due", "jobs", "journal", "standing"] {
        assert!(kinds.contains(kind), "{kind} is not among {kinds:?}");
    }
}

/// A domain on the master at `port`, or on another one.
fn domain(cluster: &Cluster, world: &World, port: u16, is_there: bool) -> String {
    let keys = Keys::new(&world.prefix, SHARDS);
    let asked = |domain: &str| {
        let shard = Destination::named(domain).shard(SHARDS);
        cluster.servers.cli(port, &["EXISTS", &keys.shard(shard).prefix]).unwrap()
    };
    let mut names = (0..).map(|n| format!("host{n}.example"));
    names.find(|name| asked(name).starts_with("MOVED") != is_there).expect("there is no end of names")
}

/// What befalls a master, and how it is over.
struct Illness {
    begins: &'static [&'static str],
    ends: &'static [&'static str],
}

const REFUSES: Illness = Illness {
    begins: &["CONFIG", "SET", "min-replicas-to-write", "9"],
    ends: &["CONFIG", "SET", "min-replicas-to-write", "0"],
};

const SILENT: Illness = Illness { begins: &["CLIENT", "PAUSE", "600000", "WRITE"], ends: &["CLIENT", "UNPAUSE"] };

/// While one master is ill, with all that a worker may have under way, what is on others goes on; and then all the rest.
async fn holds_up_nothing_of_the_others(illness: Illness) {
    const JOBS: usize = 4;
    let cluster = Cluster::start(&programs()[0], &[]).await;
    let nodes = cluster.ports[..2].iter().map(|port| format!("\"redis://127.0.0.1:{port}\""));
    let world = world_on(&format!("cluster = [{}]\n", nodes.collect::<Vec<_>>().join(", "))).await;
    let ill = cluster.ports[0];
    let tell = |words: &[&str]| assert_eq!(cluster.servers.cli(ill, words).unwrap().trim(), "OK");
    let [there, elsewhere] = [true, false].map(|is_there| domain(&cluster, &world, ill, is_there));
    for n in 0..JOBS {
        world.take_in(bounce(&format!("user{n}@{there}"), "m1", FULL)).await;
    }
    world.clock.advance(30 * HOUR);
    world.mail.hold();
    let worker = world.start_worker(|settings| {
        (settings.concurrency, settings.settle_linger) = (JOBS, Duration::ZERO);
    });
    world.mail.has_been_tried(JOBS).await;
    tell(illness.begins);
    // One is to be settled when the others end.
    for answered in 1..=JOBS {
        world.mail.answer_first(answered);
        let left = || world.mail.in_flight() == JOBS - answered;
        eventually("the end of an attempt", async || left().then_some(())).await;
    }
    for n in 0..JOBS {
        world.take_in(bounce(&format!("user{n}@{elsewhere}"), "m1", FULL)).await;
    }
    world.clock.advance(30 * HOUR);
    // One permit would not do: the first two to be tried elsewhere stay in flight.
    world.mail.has_been_tried(JOBS + 2).await;
    world.mail.let_go();
    let ended = async |count| (world.final_events().await.len() == count).then_some(());
    world.mail.has_been_tried(2 * JOBS).await;
    tell(illness.ends);
    eventually("all of them", || ended(2 * JOBS)).await;
    worker.stopped().await;
    assert_eq!(world.mail.tried().len(), 2 * JOBS, "nothing was sent twice");
}

#[tokio::test]
async fn a_master_that_takes_no_writes_holds_up_nothing_of_the_others() {
    holds_up_nothing_of_the_others(REFUSES).await;
}

#[tokio::test]
async fn a_master_that_does_not_answer_holds_up_nothing_of_the_others() {
    holds_up_nothing_of_the_others(SILENT).await;
}
