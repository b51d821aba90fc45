//! A master of a Cluster that refuses writes or does not answer delays no work on the other
//! masters.

use std::time::Duration;

use domain::destination::Destination;
use harness::bounce::{FULL, bounce};
use harness::servers::{Cluster, programs};
use harness::wait::eventually;
use harness::world::{HOUR, SHARDS, World};
use store::keys::Keys;

use super::world_on;

/// A domain whose shard is on the master at `port` if `is_there`, and otherwise on another master.
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
        .expect("one of infinitely many names fits")
}

/// A failure of a master: the commands that begin and end it.
struct Failure {
    begins: &'static [&'static str],
    ends: &'static [&'static str],
}

const REFUSES_WRITES: Failure = Failure {
    begins: &["CONFIG", "SET", "min-replicas-to-write", "9"],
    ends: &["CONFIG", "SET", "min-replicas-to-write", "0"],
};

const SILENT: Failure = Failure {
    begins: &["CLIENT", "PAUSE", "600000", "WRITE"],
    ends: &["CLIENT", "UNPAUSE"],
};

/// One master fails while a worker has its maximum of attempts there. The work on the other masters
/// must continue. After the failure, the work on the failed master must continue too.
async fn delays_nothing_on_the_others(failure: Failure) {
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
    let failing = cluster.ports[0];
    let run =
        |command: &[&str]| assert_eq!(cluster.servers.cli(failing, command).unwrap().trim(), "OK");
    let [there, elsewhere] =
        [true, false].map(|is_there| domain(&cluster, &world, failing, is_there));
    for n in 0..JOBS {
        world
            .post_bounce(bounce(&format!("user{n}@{there}"), "m1", FULL))
            .await;
    }
    world.clock.advance(30 * HOUR);
    world.mail.hold();
    let worker = world.start_worker(|settings| {
        (settings.concurrency, settings.settle_linger) = (JOBS, Duration::ZERO);
    });
    world.mail.wait_for_attempts(JOBS).await;
    run(failure.begins);
    // The attempts end one by one. The first one is already waiting to be settled when the others
    // end.
    for answered in 1..=JOBS {
        world.mail.answer_first(answered);
        let left = || world.mail.in_flight() == JOBS - answered;
        eventually("the end of an attempt", async || left().then_some(())).await;
    }
    for n in 0..JOBS {
        world
            .post_bounce(bounce(&format!("user{n}@{elsewhere}"), "m1", FULL))
            .await;
    }
    world.clock.advance(30 * HOUR);
    // Two attempts elsewhere are in flight at once, so one free permit would not be enough.
    world.mail.wait_for_attempts(JOBS + 2).await;
    world.mail.release_held();
    let ended = async |count| (world.final_events().await.len() == count).then_some(());
    world.mail.wait_for_attempts(2 * JOBS).await;
    run(failure.ends);
    eventually("all messages", || ended(2 * JOBS)).await;
    worker.stopped().await;
    assert_eq!(world.mail.tried().len(), 2 * JOBS, "nothing was sent twice");
}

#[tokio::test]
async fn a_master_that_accepts_no_writes_delays_nothing_on_the_others() {
    delays_nothing_on_the_others(REFUSES_WRITES).await;
}

#[tokio::test]
async fn a_master_that_does_not_answer_delays_nothing_on_the_others() {
    delays_nothing_on_the_others(SILENT).await;
}
