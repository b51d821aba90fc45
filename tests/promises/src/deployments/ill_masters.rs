//! One master of a Cluster that refuses writes or does not answer holds up nothing of what is on
//! the others.

use std::time::Duration;

use domain::destination::Destination;
use harness::bounce::{FULL, bounce};
use harness::servers::{Cluster, programs};
use harness::wait::eventually;
use harness::world::{HOUR, SHARDS, World};
use store::keys::Keys;

use super::world_on;

/// A domain on the master at `port`, or on another one.
fn domain(cluster: &Cluster, world: &World, port: u16, is_there: bool) -> String {
    let keys = Keys::new(&world.prefix, SHARDS);
    let asked = |domain: &str| {
        let shard = Destination::named(domain).shard(SHARDS);
        cluster
            .servers
            .cli(port, &["EXISTS", &keys.shard(shard).prefix])
            .unwrap()
    };
    let mut names = (0..).map(|n| format!("host{n}.example"));
    names
        .find(|name| asked(name).starts_with("MOVED") != is_there)
        .expect("there is no end of names")
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

const SILENT: Illness = Illness {
    begins: &["CLIENT", "PAUSE", "600000", "WRITE"],
    ends: &["CLIENT", "UNPAUSE"],
};

/// While one master is ill, with all that a worker may have under way, what is on others goes on;
/// and then all the rest.
async fn holds_up_nothing_of_the_others(illness: Illness) {
    const JOBS: usize = 4;
    let cluster = Cluster::start(&programs()[0], &[]).await;
    let nodes = cluster.ports[..2]
        .iter()
        .map(|port| format!("\"redis://127.0.0.1:{port}\""));
    let world = world_on(&format!(
        "cluster = [{}]\n",
        nodes.collect::<Vec<_>>().join(", ")
    ))
    .await;
    let ill = cluster.ports[0];
    let tell = |words: &[&str]| assert_eq!(cluster.servers.cli(ill, words).unwrap().trim(), "OK");
    let [there, elsewhere] = [true, false].map(|is_there| domain(&cluster, &world, ill, is_there));
    for n in 0..JOBS {
        world
            .take_in(bounce(&format!("user{n}@{there}"), "m1", FULL))
            .await;
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
        world
            .take_in(bounce(&format!("user{n}@{elsewhere}"), "m1", FULL))
            .await;
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
