//! When Redis has no memory left, no job is claimed that could not be settled, attempts in flight
//! are still settled, and a rejected call has changed nothing. When memory is free again, the work
//! continues, and each message has been sent once.

use std::collections::HashMap;

use domain::event::EventKind;
use harness::bounce::{FULL, bounce};
use harness::http::{Http, problem};
use harness::process::Redeliver;
use harness::servers::programs;
use harness::smtp::{Act, SmtpPeer};
use harness::wait::eventually;
use harness::world::{DAY, Settings, World};
use scheduler::upkeep::Task;
use scheduler::upkeep::trim_journal::TrimJournal;
use serde_json::json;
use store::error::StoreError;
use store::keys::Keys;
use store::scripts::{self, WhenFull};

use crate::deployments::connections;
use crate::every_script::{
    ACCEPTED, DUE, ENDED, HELD, LAPSED, LEASED, LOST, Prepared, QUARANTINED, Server, shard,
};

fn key(world: &World, name: &str) -> String {
    format!(
        "{}{name}",
        Keys::new(&world.prefix, world.store.shards())
            .shard(shard(world))
            .prefix
    )
}

/// How often each recipient got mail.
fn copies(world: &World) -> HashMap<String, usize> {
    let mut copies = HashMap::new();
    for tried in world.mail.tried() {
        *copies.entry(tried.recipient).or_default() += 1;
    }
    copies
}

#[tokio::test]
async fn with_full_memory_each_operation_works_or_changes_nothing_and_is_possible_later() {
    for program in programs() {
        let server = Server::start(&program).await;
        for (verb, when_full) in scripts::when_full() {
            let prepared = Prepared::on(&server).await;
            let before = server.digest();
            server.set_full(true);
            let ran = prepared.run(verb).await;
            server.set_full(false);
            match when_full {
                WhenFull::Runs => assert!(ran.is_ok(), "{verb}: {ran:?}"),
                WhenFull::Reads => {
                    assert!(ran.is_ok(), "{verb}: {ran:?}");
                    assert_eq!(server.digest(), before, "{verb} has changed something");
                }
                WhenFull::Refused => {
                    let Err(StoreError::Unavailable(why)) = ran else {
                        panic!("{verb} was not refused")
                    };
                    assert!(
                        why.starts_with("OOM: the server's memory is full"),
                        "{verb}: {why}"
                    );
                    assert_eq!(server.digest(), before, "{verb} has changed something");
                }
            }
            prepared.work_to_the_end().await;
            let world = &prepared.world;
            let jobs = [
                ENDED,
                LEASED,
                LAPSED,
                DUE,
                HELD,
                QUARANTINED,
                LOST,
                ACCEPTED,
            ];
            let once = jobs.map(|address| (address.to_owned(), 1));
            assert_eq!(
                copies(world),
                HashMap::from(once),
                "{verb}: each message was sent once"
            );
            let delivered = world.events_of(EventKind::MessageDelivered).await;
            assert_eq!(delivered.len(), jobs.len(), "{verb}: no message is lost");
            assert_eq!(server.cli(&["HLEN", &key(world, "jobs")]), "0", "{verb}");
        }
    }
}

/// How many attempts are in flight at once, at all workers together.
const IN_FLIGHT: usize = 10;

/// How many messages there are.
const MESSAGES: usize = 30;

/// A world whose clock is days behind, so that its jobs are due by the clock of a real worker.
async fn world_days_behind(server: &Server) -> World {
    World::on(connections(&server.redis()), Settings::days_behind()).await
}

/// A worker with five permits and a short lease. It sends all mail to `peer`.
fn start_worker(server: &Server, world: &World, peer: &SmtpPeer) -> Redeliver {
    let (redis, prefix, shards) = (server.redis(), &world.prefix, world.store.shards());
    let (host, port) = (peer.address.ip(), peer.address.port());
    let config = format!(
        "[redis]\n{redis}prefix = \"{prefix}\"\nshards = {shards}\n\
         [worker]\npoll_max = \"10ms\"\nlease = \"1s\"\nconcurrency = {}\nunproven_share = 1.0\n\
         [[route]]\nname = \"default\"\nsender = \"smtp\"\nhost = \"{host}\"\nport = {port}\n\
         tls = \"none\"\n",
        IN_FLIGHT / 2
    );
    Redeliver::start("worker", &config)
}

/// How often the peer accepted each message, by its Message-ID.
fn accepted(peer: &SmtpPeer) -> HashMap<String, usize> {
    let mut accepted = HashMap::new();
    for content in peer.contents() {
        let text = String::from_utf8_lossy(&content).into_owned();
        let id = text
            .lines()
            .find_map(|line| line.strip_prefix("Message-ID: "))
            .expect("the mail has a Message-ID");
        *accepted.entry(id.to_owned()).or_default() += 1;
    }
    accepted
}

#[tokio::test]
async fn mail_in_flight_when_memory_becomes_full_is_sent_once() {
    for program in programs() {
        let server = Server::start(&program).await;
        let world = world_days_behind(&server).await;
        for n in 0..MESSAGES {
            let mut bounce = bounce(
                &format!("user{n}@host{}.example", n % 10),
                &format!("m{n}"),
                FULL,
            );
            bounce["content"] =
                json!({"inline": format!("Message-ID: <m{n}@example.org>\r\n\r\nhello\r\n")});
            world.post_bounce(bounce).await;
        }
        // The lease would end three times between the final dot and the end of the answer.
        let peer = SmtpPeer::agreeable_except(".", Act::Drip("250 2.0.0 ok", 250)).await;
        let workers = [
            start_worker(&server, &world, &peer),
            start_worker(&server, &world, &peer),
        ];
        peer.wait_for_command(".", IN_FLIGHT).await;
        server.set_full(true);
        let leases = |world: &World| {
            let keys = Keys::new(&world.prefix, world.store.shards());
            let of_shard = |n| server.cli(&["ZCARD", keys.shard(n).leases()]);
            (0..world.store.shards())
                .map(of_shard)
                .filter(|count| count != "0")
                .count()
        };
        eventually("all settlements, or a second copy", async || {
            let again = accepted(&peer).into_values().any(|copies| copies > 1);
            (again || leases(&world) == 0).then_some(())
        })
        .await;
        let while_full = accepted(&peer);
        assert!(
            while_full.values().all(|copies| *copies == 1),
            "{while_full:?}"
        );
        let settled = world.events_of(EventKind::MessageDelivered).await.len();
        assert_eq!(
            settled,
            while_full.len(),
            "each sent message is settled, and nothing else was claimed"
        );

        let http = Http::serve(&world).await;
        let answer = problem(
            http.post_json(&bounce("new@example.com", "m1", FULL)).await,
            503,
        )
        .await;
        let detail = answer["detail"].as_str().unwrap();
        assert!(
            detail.starts_with("the store answers OOM: the server's memory is full"),
            "{detail}"
        );
        assert_eq!(
            http.get("/readyz").send().await.unwrap().status(),
            200,
            "the scheduler can still answer from what Redis has"
        );
        let occurrence = world.now();
        assert!(
            world
                .store
                .claim_occurrence("trim_journal", occurrence, DAY)
                .await
                .unwrap()
        );
        TrimJournal { keep: DAY }
            .run_once(&world.store)
            .await
            .expect("upkeep continues, because it frees memory");

        server.set_full(false);
        eventually("all deliveries", async || {
            (world.events_of(EventKind::MessageDelivered).await.len() == MESSAGES).then_some(())
        })
        .await;
        let all = accepted(&peer);
        assert_eq!(
            (all.len(), all.values().copied().max()),
            (MESSAGES, Some(1)),
            "each message was sent once"
        );
        let log = workers[0].log();
        assert!(
            log.contains("redis does not answer: OOM: the server's memory is full"),
            "{log}"
        );
        for worker in workers {
            assert!(worker.terminate().await.success());
        }
    }
}
