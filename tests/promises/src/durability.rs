//! Intake acknowledges a bounce only when it is as durable as configured. Settling an attempt
//! reports the durability that it reached, and delays no other work.

use config::model::Config;
use harness::bounce::{FULL, bounce};
use harness::http::{Http, problem};
use harness::servers::{Servers, programs};
use harness::wait::eventually;
use harness::world::{Settings, World};
use policy::table::Table;
use store::error::StoreError;
use store::handle::Store;
use store::schedule::Answer;
use store::settle::{SettleCall, Settled};

use crate::deployments::connections;

const JO: &str = "jo@example.com";

#[tokio::test]
async fn without_its_replica_intake_answers_503_and_settling_reports_the_missing_durability() {
    for program in programs() {
        let servers = Servers::new(&program);
        let master = servers.start(&[]).await;
        let replica = servers.start_replica(master, &[]).await;
        let redis = format!("url = \"redis://127.0.0.1:{master}\"\ndurability = \"replicas:1\"\n");
        let world = World::on(connections(&redis), Settings::default()).await;
        let http = Http::serve(&world).await;
        world
            .post_and_wait_until_due(bounce("sam@example.com", "m1", FULL))
            .await;
        let settlement = world.attempt(world.claim_one().await).await;

        servers.signal(replica, "-STOP");
        // The second call finds that the bounce is recorded, and writes nothing. It must not report
        // success either.
        for _ in 0..2 {
            let Err(StoreError::Unavailable(why)) =
                world.try_post_bounce(bounce(JO, "m1", FULL)).await
            else {
                panic!()
            };
            assert_eq!(why, "only 0 of 1 replicas confirmed the write within 500ms");
        }
        problem(http.post_json(&bounce(JO, "m1", FULL)).await, 503).await;
        let report = world
            .store
            .settle(SettleCall::unique(), &[settlement])
            .await
            .unwrap();
        assert_eq!(report.settled, [Settled::Done]);
        assert!(
            report
                .missing
                .is_some_and(|why| why.contains("0 of 1 replicas"))
        );

        servers.signal(replica, "-CONT");
        let answer = eventually("an acknowledgement", async || {
            world.try_post_bounce(bounce(JO, "m1", FULL)).await.ok()
        })
        .await;
        assert_eq!(answer, Answer::Duplicate);
        let due = world.job(JO).await.due.unwrap();
        world.clock.set(due);
        let settlement = world.attempt(world.claim_one().await).await;
        assert_eq!(
            world
                .store
                .settle(SettleCall::unique(), &[settlement])
                .await
                .unwrap()
                .missing,
            None
        );
    }
}

#[tokio::test]
async fn durability_aof_starts_only_if_the_server_keeps_an_append_only_file() {
    for program in programs() {
        let servers = Servers::new(&program);
        let port = servers.start(&["appendonly no"]).await;
        let redis = format!("url = \"redis://127.0.0.1:{port}\"\ndurability = \"aof\"\n");
        let open = async || {
            let limits = Config::embedded().limits(&Table::embedded());
            let clock = std::sync::Arc::new(system::clock::SystemClock);
            Store::open(
                connections(&redis),
                &harness::redis::unique_prefix(),
                4,
                limits,
                clock,
            )
            .await
        };
        let Err(StoreError::Mismatch(why)) = open().await else {
            panic!("the store opened without an append-only file")
        };
        assert!(why.contains("set appendonly yes there"), "{why}");

        servers
            .cli(port, &["CONFIG", "SET", "appendonly", "yes"])
            .unwrap();
        servers
            .cli(port, &["CONFIG", "SET", "appendfsync", "everysec"])
            .unwrap();
        let can_wait = servers
            .cli(port, &["COMMAND", "INFO", "WAITAOF"])
            .is_some_and(|info| info.contains("waitaof"));
        match open().await {
            Ok(_) => assert!(can_wait, "no write would wait for the disk"),
            Err(StoreError::Mismatch(why)) => {
                assert!(!can_wait, "{why}");
                assert!(
                    why.contains("older than 7.2") && why.contains("set appendfsync always there"),
                    "{why}"
                );
            }
            Err(err) => panic!("{err}"),
        }

        servers
            .cli(port, &["CONFIG", "SET", "appendfsync", "always"])
            .unwrap();
        let world = World::on(connections(&redis), Settings::default()).await;
        assert!(matches!(
            world.post_bounce(bounce(JO, "m1", FULL)).await,
            Answer::Scheduled { .. }
        ));
    }
}

#[tokio::test]
async fn a_bounce_acknowledged_with_durability_aof_survives_a_crash() {
    for program in programs() {
        let servers = Servers::new(&program);
        let directives = ["appendonly yes", "appendfsync always"];
        let port = servers.start(&directives).await;
        let redis = format!("url = \"redis://127.0.0.1:{port}\"\ndurability = \"aof\"\n");
        let world = World::on(connections(&redis), Settings::default()).await;
        assert!(matches!(
            world.post_bounce(bounce(JO, "m1", FULL)).await,
            Answer::Scheduled { .. }
        ));
        servers.kill(port);
        servers.start_on(port, &directives).await;
        eventually("the store", async || world.store.ping().await.ok()).await;
        assert_eq!(world.waiting(JO).await, ["m1"]);

        if servers
            .cli(port, &["COMMAND", "INFO", "WAITAOF"])
            .is_some_and(|info| info.contains("waitaof"))
        {
            servers
                .cli(port, &["CONFIG", "SET", "appendfsync", "no"])
                .unwrap();
            let Err(StoreError::Unavailable(why)) =
                world.try_post_bounce(bounce(JO, "m2", FULL)).await
            else {
                panic!()
            };
            assert_eq!(why, "the append-only file was not synced within 500ms");
            servers
                .cli(port, &["CONFIG", "SET", "appendfsync", "always"])
                .unwrap();
            let answer = eventually("an acknowledgement", async || {
                world.try_post_bounce(bounce(JO, "m2", FULL)).await.ok()
            })
            .await;
            assert_eq!(answer, Answer::Duplicate);
        }
    }
}
