//! What happens to Redis, and to what is in it, is counted.

use std::time::Duration;

use domain::destination::Destination;
use harness::bounce::{FULL, bounce};
use harness::forgetful::SnapshotRedis;
use harness::redis;
use harness::servers::programs;
use harness::wait::eventually;
use harness::world::{Settings, World};
use store::connection::pool::Connections;
use store::connection::servers::Servers;
use store::connection::settings::{ConnectionSettings, Durability};
use store::keys::Keys;

use super::figures::{count, read};
use crate::deployments::connections;
use crate::every_script::Server;

const HOST: &str = "example.com";
const JO: &str = "jo@example.com";

/// Returns the name of a key of the shard of a destination.
fn key(world: &World, destination: &str, name: &str) -> String {
    let shards = world.store.shards();
    let shard = Destination::named(destination).shard(shards);
    let keys = Keys::new(&world.prefix, shards);
    format!("{}{name}", keys.shard(shard).prefix)
}

#[tokio::test]
async fn what_a_repair_finds_is_counted() {
    let world = World::new().await;
    let repairs = |kind: &str| {
        count(
            &world,
            &format!("redeliver_repairs_total{{kind=\"{kind}\"}}"),
        )
    };
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    let leased = world.claim_one().await;
    world.post_due_jobs("two.example", 1).await;
    let (leases, token) = (key(&world, HOST, "leases"), leased.lease.token.to_string());
    let agenda = key(&world, "two.example", "agenda");
    for (key, member) in [(&leases, &*token), (&agenda, "two.example")] {
        redis::ask(&redis::url(), &["ZREM", key, member]).await;
    }
    let all = || {
        let kinds = ["destination", "count", "lease"].map(repairs);
        (kinds, count(&world, "redeliver_recovered_jobs_total"))
    };
    assert_eq!(all(), ([0.0; 3], 0.0));
    for _ in 0..2 {
        for shard in 0..world.store.shards() {
            world.store.repair(shard).await.unwrap();
        }
        assert_eq!(all(), ([1.0; 3], 1.0));
    }
}

#[tokio::test]
async fn a_server_that_was_restarted_is_counted_once_for_each_shard_by_all_processes_together() {
    let redis = SnapshotRedis::start(&programs()[0]).await;
    let on_redis = format!("url = \"{}\"\n", redis.url());
    let mut world = World::on(connections(&on_redis), Settings::default()).await;
    let first = world.store.clone();
    world.restart().await;
    for store in [&first, &world.store] {
        assert!(store.find_losses().await.is_empty());
    }
    redis.take_snapshot();
    redis.lose_last_writes().await;
    eventually("the store", async || world.store.ping().await.ok()).await;
    for store in [&world.store, &first] {
        for mut incident in store.find_losses().await {
            store.repair_after_loss(&mut incident).await.unwrap();
        }
    }
    let changes = count(&world, "redeliver_redis_server_changes_total");
    assert_eq!(changes, f64::from(world.store.shards()));
    assert_eq!(count(&world, "redeliver_lost_writes_total"), 0.0);
}

#[tokio::test]
async fn writes_that_did_not_reach_the_durability_are_counted_apart_from_those_that_did() {
    let series = |durability, result| {
        format!("redeliver_durable_writes_total{{durability=\"{durability}\",result=\"{result}\"}}")
    };
    let world = World::new().await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    assert!(count(&world, &series("memory", "reached")) >= 1.0);
    assert_eq!(count(&world, &series("memory", "missed")), 0.0);
    assert!(count(&world, "redeliver_redis_round_trips_total") >= 1.0);

    let settings = ConnectionSettings {
        durability: Durability::Replicas(1),
        durability_timeout: Duration::from_millis(20),
        ..redis::settings()
    };
    let servers = Servers::single(&redis::url()).unwrap();
    let without_replica = Connections::new(&servers, settings).unwrap();
    let world = World::on(without_replica, Settings::default()).await;
    let posted = world.try_post_bounce(bounce(JO, "m1", FULL)).await;
    assert!(posted.is_err(), "{posted:?}");
    assert!(count(&world, &series("replicas", "missed")) >= 1.0);
    assert_eq!(count(&world, &series("replicas", "reached")), 0.0);
}

#[tokio::test]
async fn refusals_of_a_full_server_and_keys_that_it_evicts_are_counted() {
    let server = Server::start(&programs()[0]).await;
    let world = World::on(connections(&server.redis()), Settings::default()).await;
    server.set_full(true);
    let posted = world.try_post_bounce(bounce(JO, "m1", FULL)).await;
    assert!(posted.is_err(), "{posted:?}");
    let refused = count(&world, "redeliver_redis_failures_total{kind=\"oom\"}");
    assert!(refused >= 1.0);
    server.set_full(false);

    for n in 0..20 {
        server.cli(&["SET", &format!("another{n}"), "program's"]);
    }
    assert_eq!(read(&world).await.evicted, Some(0));
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]);
    server.set_full(true);
    let reading = eventually("an eviction", async || {
        let reading = read(&world).await;
        (reading.evicted? >= 20).then_some(reading)
    })
    .await;
    world.store.metrics().fleet(Some(&reading));
    let evicted = count(&world, "redeliver_redis_evicted_keys_total");
    assert_eq!(Some(evicted as u64), reading.evicted);
}

#[tokio::test]
async fn the_figures_of_the_fleet_are_read_even_if_redis_reports_nothing_about_itself() {
    let server = Server::start(&programs()[0]).await;
    let world = World::on(connections(&server.redis()), Settings::default()).await;
    world.post_due_jobs("one.example", 3).await;
    server.cli(&["ACL", "SETUSER", "default", "-info"]);
    let reading = read(&world).await;
    assert_eq!((reading.due, reading.destinations), (3, 1));
    let about_server = (reading.memory_used, reading.memory_max, reading.evicted);
    assert_eq!(about_server, (None, None, None));
}
