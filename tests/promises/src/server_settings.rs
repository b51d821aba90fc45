//! A Redis server with settings that break a promise is refused at the start. A setting that
//! changes later is noticed: it causes a warning and an event, and another event when it is
//! corrected. Settings that cannot be read are listed.

use std::sync::Arc;

use config::model::Config;
use domain::event::EventKind;
use harness::port::free_port;
use harness::process::Redeliver;
use harness::redis::unique_prefix;
use harness::servers::{Cluster, Servers, programs};
use harness::wait::eventually;
use harness::world::{Settings, World};
use policy::table::Table;
use scheduler::upkeep::Task;
use scheduler::upkeep::check_servers::CheckServers;
use store::error::StoreError;
use store::handle::Store;
use store::server_checks::Severity;
use system::clock::SystemClock;

use crate::deployments::connections;

async fn open(redis: &str) -> Result<Store, StoreError> {
    let limits = Config::embedded().limits(&Table::embedded());
    Store::open(
        connections(redis),
        &unique_prefix(),
        4,
        limits,
        Arc::new(SystemClock),
    )
    .await
}

#[tokio::test]
async fn a_server_that_may_evict_keys_is_refused_unless_that_is_configured_as_allowed() {
    for program in programs() {
        let servers = Servers::new(&program);
        let port = servers
            .start(&["maxmemory 100mb", "maxmemory-policy allkeys-lru"])
            .await;
        let redis = format!("url = \"redis://127.0.0.1:{port}\"\n");
        let Err(StoreError::Mismatch(why)) = open(&redis).await else {
            panic!("the store opened")
        };
        assert!(
            why.starts_with(&format!(
                "maxmemory-policy is allkeys-lru at 127.0.0.1:{port}: "
            )),
            "{why}"
        );
        assert!(why.contains("set maxmemory-policy noeviction"), "{why}");
        open(&format!("{redis}allow_eviction = true\n"))
            .await
            .expect("eviction is configured as allowed");

        let listen = free_port();
        let config = format!("[redis]\n{redis}[scheduler]\nlisten = \"127.0.0.1:{listen}\"\n");
        let scheduler = Redeliver::start("scheduler", &config);
        let has_logged = || scheduler.log().contains("maxmemory-policy is allkeys-lru");
        eventually("the scheduler's refusal", async || {
            has_logged().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_cannot_run_scripts_is_refused() {
    for program in programs() {
        let servers = Servers::new(&program);
        let port = servers.start(&["rename-command SCRIPT \"\""]).await;
        let opened = open(&format!("url = \"redis://127.0.0.1:{port}\"\n")).await;
        let Err(StoreError::Mismatch(why)) = opened else {
            panic!("the store opened")
        };
        assert!(
            why.starts_with("scripts is not to be had (ERR) at"),
            "{why}"
        );
    }
}

#[tokio::test]
async fn the_settings_of_every_master_of_a_cluster_are_checked() {
    let cluster = Cluster::start(&programs()[0], &[]).await;
    let nodes = cluster.ports[..2]
        .iter()
        .map(|port| format!("\"redis://127.0.0.1:{port}\""));
    let redis = format!("cluster = [{}]\n", nodes.collect::<Vec<_>>().join(", "));
    let store = open(&redis).await.unwrap();
    assert_eq!(
        store
            .check_servers()
            .await
            .unwrap()
            .at_least(Severity::Warn)
            .count(),
        0
    );
    let last = cluster
        .ports
        .iter()
        .copied()
        .rfind(|port| cluster.is_master(*port))
        .unwrap();
    cluster
        .servers
        .cli(last, &["CONFIG", "SET", "maxmemory-policy", "volatile-lru"])
        .unwrap();
    let Err(StoreError::Mismatch(why)) = open(&redis).await else {
        panic!("the store opened")
    };
    assert!(
        why.contains(&format!("127.0.0.1:{last}")) && why.lines().count() == 1,
        "{why}"
    );
}

#[tokio::test]
async fn a_changed_setting_causes_one_event_and_another_when_it_is_corrected() {
    for program in programs() {
        let servers = Servers::new(&program);
        let port = servers.start(&[]).await;
        let redis = format!("url = \"redis://127.0.0.1:{port}\"\n");
        let world = World::on(connections(&redis), Settings::default()).await;
        let set = |policy: &str| {
            servers
                .cli(port, &["CONFIG", "SET", "maxmemory-policy", policy])
                .unwrap();
        };
        let check = async || CheckServers.run_once(&world.store).await.unwrap();
        assert_eq!(check().await, 0);
        set("allkeys-random");
        assert_eq!((check().await, check().await), (1, 0), "only once");
        assert_eq!(world.store.findings().await.unwrap().len(), 1);
        set("noeviction");
        assert_eq!((check().await, check().await), (1, 0));
        assert!(world.store.findings().await.unwrap().is_empty());
        for kind in [EventKind::ServerMisconfigured, EventKind::ServerCorrected] {
            let events = world.events_of(kind).await;
            assert_eq!(events.len(), 1, "{kind:?}");
            let reason = events[0].reason.as_ref().unwrap();
            assert!(
                reason.starts_with("maxmemory-policy is allkeys-random at "),
                "{reason}"
            );
        }
    }
}

#[tokio::test]
async fn the_configured_durability_is_compared_with_the_replication_of_the_server() {
    for program in programs() {
        let servers = Servers::new(&program);
        let master = servers.start(&[]).await;
        let redis = format!("url = \"redis://127.0.0.1:{master}\"\ndurability = \"replicas:1\"\n");
        let checks = async |store: &Store| {
            let report = store.check_servers().await.unwrap();
            report
                .at_least(Severity::Warn)
                .map(|finding| finding.check)
                .collect::<Vec<_>>()
        };
        let store = open(&redis).await.unwrap();
        assert_eq!(
            checks(&store).await,
            ["min-replicas-to-write", "connected_slaves"]
        );
        servers.start_replica(master, &[]).await;
        servers
            .cli(master, &["CONFIG", "SET", "min-replicas-to-write", "1"])
            .unwrap();
        eventually("a server without findings", async || {
            checks(&store).await.is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_forbids_config_is_checked_by_info_and_the_unchecked_settings_are_listed() {
    for program in programs() {
        let servers = Servers::new(&program);
        let port = servers
            .start(&[
                "rename-command CONFIG \"\"",
                "maxmemory-policy volatile-ttl",
            ])
            .await;
        let redis = format!("url = \"redis://127.0.0.1:{port}\"\n");
        let Err(StoreError::Mismatch(why)) = open(&redis).await else {
            panic!("the store opened")
        };
        assert!(
            why.starts_with("maxmemory-policy is volatile-ttl"),
            "INFO shows the policy: {why}"
        );
        let store = open(&format!("{redis}allow_eviction = true\n"))
            .await
            .unwrap();
        let report = store.check_servers().await.unwrap();
        assert_eq!(
            report.not_checked,
            [format!(
                "save at 127.0.0.1:{port} (CONFIG GET may not be asked)"
            )]
        );
    }
}
