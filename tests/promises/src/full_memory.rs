//! When Redis has no memory left, no job is claimed that could not be settled, attempts in flight
//! are still settled, and a rejected call has changed nothing. When memory is free again, the work
//! continues, and each message has been sent once.

use std::collections::HashMap;
use std::time::Duration;

use domain::clock::{Clock, Timestamp};
use domain::destination::Destination;
use domain::event::{Event, EventKind, EventLines};
use domain::fact::FactKind;
use domain::job::End;
use domain::outcome::Outcome;
use domain::pace::{DestinationRule, Feedback, PaceLimits};
use domain::reply::Reply;
use domain::tally::{Tally, TallyResult};
use harness::bounce::{FULL, FULL_FOR_GOOD, OK, bounce};
use harness::http::{Http, problem};
use harness::process::Redeliver;
use harness::servers::{Servers, programs};
use harness::smtp::{Act, SmtpPeer, agree};
use harness::wait::eventually;
use harness::world::{DAY, HOUR, LEASE, Settings, World, id};
use scheduler::upkeep::Task;
use scheduler::upkeep::trim_journal::TrimJournal;
use serde_json::json;
use store::claim::{ClaimBounds, Lease, LeasedJob};
use store::error::StoreError;
use store::facts::{FactOrCommand, ReportedFact};
use store::keys::Keys;
use store::lease::{Extended, ReleaseReason};
use store::refute::Refutation;
use store::repair::Repaired;
use store::scripts::{self, WhenFull};
use store::seen_webhooks::RequestClaim;
use store::server_checks::{Finding, ServerReport, Severity};
use store::settle::{SettleCall, Settled, Settlement};
use system::clock::SystemClock;

use crate::deployments::connections;

/// The address's attempt has ended and is not settled.
const ENDED: &str = "ended@example.com";
/// The job is leased.
const LEASED: &str = "leased@example.com";
/// The job's lease has run out.
const LAPSED: &str = "lapsed@example.com";
/// The job is due.
const DUE: &str = "due@example.com";
/// The job is in quarantine.
const KEPT: &str = "kept@example.com";
/// The job is in no set at all.
const LOST: &str = "lost@example.com";
/// A relay has accepted the job's message.
const ACCEPTED: &str = "accepted@example.com";
/// The address is unavailable, and that time is over.
const UNAVAILABLE: &str = "unavailable@example.com";

/// The domain of all these addresses.
const THERE: &str = "example.com";

/// How long no bounce may come until a message that a relay accepted counts as delivered.
const CONFIRM: Duration = Duration::from_secs(20 * 86_400);

/// A server whose memory can be full.
struct Server {
    servers: Servers,
    port: u16,
}

impl Server {
    async fn start(program: &str) -> Self {
        let servers = Servers::new(program);
        let port = servers.start(&["maxmemory-policy noeviction"]).await;
        Self { servers, port }
    }

    fn has_memory(&self, has: bool) {
        assert_eq!(
            self.cli(&["CONFIG", "SET", "maxmemory", if has { "0" } else { "1" }]),
            "OK"
        );
    }

    fn cli(&self, facts_or_commands: &[&str]) -> String {
        self.servers
            .cli(self.port, facts_or_commands)
            .expect("the server answers")
    }

    /// A digest of all data in the server.
    fn digest(&self) -> String {
        self.cli(&["DEBUG", "DIGEST"])
    }

    fn redis(&self) -> String {
        format!("url = \"redis://127.0.0.1:{}\"\n", self.port)
    }
}

/// A world in which every script has work to do.
struct Prepared {
    world: World,
    settlement: Settlement,
    leased: Lease,
    request_claim: RequestClaim,
}

impl Prepared {
    async fn on(server: &Server) -> Self {
        let settings = Settings {
            max_lapses: 1,
            confirm: CONFIRM,
            ..Settings::default()
        };
        let world = World::on(connections(&server.redis()), settings).await;
        world
            .post_bounce(bounce(UNAVAILABLE, "m1", FULL_FOR_GOOD))
            .await;
        world.clock.advance(400 * DAY);

        world
            .post_and_wait_until_due(bounce(ACCEPTED, "m1", FULL))
            .await;
        world
            .mail
            .set_script(|_| Outcome::Accepted(Reply::parse("250 2.0.0 queued")));
        assert_eq!(world.work().await, 1);
        world.mail.reply_with(OK);

        let kept = lease(&world, KEPT).await;
        assert!(world.crash(&kept.lease).await);
        let ended = lease(&world, ENDED).await;
        let settlement = world.attempt(ended).await;
        extend_for_long(&world, &settlement.lease).await;
        let leased = lease(&world, LEASED).await.lease;
        extend_for_long(&world, &leased).await;
        lease(&world, LAPSED).await;
        world.clock.advance(LEASE);
        world.post_bounce(bounce(LOST, "m1", FULL)).await;
        world.post_and_wait_until_due(bounce(DUE, "m1", FULL)).await;

        // A state that only an error or a different time leaves behind, for upkeep to find.
        let keys = Keys::new(&world.prefix, world.store.shards());
        let keys = keys.shard(shard(&world));
        server.cli(&["ZREM", &keys.due(THERE), &id(LOST).key()]);
        server.cli(&["HSET", &keys.pace(THERE), "in_flight", "70"]);
        server.cli(&["ZADD", &keys.trouble(), "1", "well.example"]);
        server.cli(&["HSET", keys.meanwhile(), "default/gone@example.com", "1 0"]);
        server.cli(&["HSET", keys.leased(), "999-0000000000000000", "1"]);
        let request_claim = world
            .store
            .claim_request("an event")
            .await
            .unwrap()
            .expect("the request is new");
        Self {
            world,
            settlement,
            leased,
            request_claim,
        }
    }

    /// Runs one script.
    async fn run(&self, verb: &str) -> Result<(), StoreError> {
        let Self {
            world,
            settlement,
            leased,
            request_claim,
        } = self;
        let (store, there) = (&world.store, Destination::named(THERE));
        match verb {
            "schedule" => drop(
                world
                    .try_take_in(bounce("new@example.com", "m1", FULL))
                    .await?,
            ),
            "claim" => {
                let bounds = ClaimBounds {
                    batch: 9,
                    share: 9,
                    lease: LEASE,
                    unproven: 9,
                };
                drop(store.claim(shard(world), bounds).await?);
            }
            "settle" => {
                let settled = store
                    .settle(SettleCall::unique(), std::slice::from_ref(settlement))
                    .await?
                    .settled;
                assert_eq!(settled, [Settled::Done]);
            }
            "refute" => {
                let seen = world.job(ACCEPTED).await.job;
                let tally = Tally::new(
                    TallyResult::Refuted,
                    None,
                    1,
                    seen.head.created,
                    world.now(),
                );
                let (end, feedback, events) =
                    (End::Close, Feedback::Nothing, EventLines::default());
                let record = seen.record();
                let serial = settlement.lease.token.serial;
                let refutation = Refutation {
                    seen: &seen,
                    record: &record,
                    end,
                    tally,
                    feedback,
                    serial,
                    events,
                };
                drop(store.refute(&refutation).await?);
            }
            "release" => assert_eq!(
                store
                    .release(std::slice::from_ref(leased), ReleaseReason::Untried)
                    .await?,
                1
            ),
            "silent" => drop(store.note_silence(shard(world), &[(there, DAY)]).await?),
            "facts" => {
                let what = FactOrCommand::Fact(FactKind::Complaint);
                let fact = ReportedFact {
                    job: id(DUE),
                    destination: there,
                    what,
                    occurred_at: None,
                    message_id: None,
                };
                drop(store.record_facts(&[fact]).await?);
            }
            "extend" => {
                let answers = store.extend(&[leased.key()], 19 * DAY).await;
                assert_eq!(answers, [Extended::Yes(Vec::new())]);
            }
            "under_way" => assert!(store.under_way(&[(&id(ENDED), &there)]).await?.is_empty()),
            "hold" => store.hold(&there, None, "they asked").await?,
            "unhold" => assert!(!store.unhold(&there).await?),
            "override" => {
                store
                    .override_limits(
                        &there,
                        Some(PaceLimits {
                            rate: 1.0,
                            burst: 2.0,
                            window: 3,
                        }),
                    )
                    .await?;
            }
            "limit" => {
                let limits = PaceLimits {
                    rate: 900.0,
                    burst: 900.0,
                    window: 90,
                };
                let rule = DestinationRule {
                    name: THERE.to_owned(),
                    limits,
                };
                assert_eq!(store.clone().with_rules(&[rule]).limit().await?, 1);
            }
            "note" => {
                store
                    .note(&Event::intake_refused("no bounce".to_owned()))
                    .await?;
            }
            "note_findings" => {
                let finding = Finding {
                    check: "maxmemory-policy",
                    server: "here".to_owned(),
                    found: "allkeys-lru".to_owned(),
                    means: "jobs are lost",
                    remedy: "change it",
                    severity: Severity::Warn,
                };
                let report = ServerReport {
                    findings: vec![finding],
                    ..ServerReport::default()
                };
                assert_eq!(store.note_findings(&report).await?, 1);
            }
            "release_request" => assert!(store.release_request(request_claim).await?),
            "claim_occurrence" => assert!(store.claim_occurrence("task", world.now(), DAY).await?),
            "put_back" => assert!(store.put_back(&id(KEPT)).await?),
            "reinstate" => drop(store.reinstate().await?),
            "repair" | "recount" | "sweep" => {
                let Repaired {
                    recovered,
                    recounted,
                    swept,
                    ..
                } = store.repair(shard(world)).await?;
                assert_eq!(
                    (recovered.get(&there), recounted.len(), swept),
                    (Some(&1), 1, 1)
                );
            }
            "clock" => assert_eq!(store.clock_of(shard(world)).await?, world.now()),
            "history" => assert!(!store.check_for_lost_writes(shard(world)).await?.is_proof()),
            "look_up" => assert!(store.address(&id(DUE)).await?.job.is_some()),
            "waiting" => assert_eq!(store.waiting(&there).await?.jobs, 2),
            "trim_marks" => assert_eq!(store.trim_marks(shard(world)).await?, 1),
            "trim_trouble" => assert_eq!(store.trim_trouble(shard(world)).await?, 1),
            other => {
                panic!("add here how {other} is run, and what it must do when memory is full")
            }
        }
        Ok(())
    }

    /// Works until no job is left.
    async fn work_to_the_end(&self) {
        let Self {
            world,
            settlement,
            leased,
            ..
        } = self;
        let store = &world.store;
        store
            .settle(SettleCall::unique(), std::slice::from_ref(settlement))
            .await
            .unwrap();
        store
            .release(std::slice::from_ref(leased), ReleaseReason::Untried)
            .await
            .unwrap();
        store.unhold(&Destination::named(THERE)).await.unwrap();
        store
            .override_limits(&Destination::named(THERE), None)
            .await
            .unwrap();
        for _ in 0..4 {
            store.repair(shard(world)).await.unwrap();
            for kept in store.quarantine(None, 9).await.unwrap() {
                assert!(store.put_back(&kept.job).await.unwrap());
            }
            world.work().await;
            world.clock.advance(30 * HOUR);
        }
        world.clock.advance(CONFIRM);
        world.work().await;
    }
}

async fn lease(world: &World, address: &str) -> LeasedJob {
    world
        .post_and_wait_until_due(bounce(address, "m1", FULL))
        .await;
    world.claim_one().await
}

/// Extends a lease for longer than the test takes.
async fn extend_for_long(world: &World, lease: &Lease) {
    let lengthened = world.store.extend(&[lease.key()], 9 * DAY).await;
    assert_eq!(lengthened, [Extended::Yes(Vec::new())]);
}

fn shard(world: &World) -> u16 {
    Destination::named(THERE).shard(world.store.shards())
}

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
            server.has_memory(false);
            let ran = prepared.run(verb).await;
            server.has_memory(true);
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
            let jobs = [ENDED, LEASED, LAPSED, DUE, KEPT, LOST, ACCEPTED];
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

/// A world whose present is days ago, so that its jobs are long due by the clock of a real worker.
async fn days_ago(server: &Server) -> World {
    let epoch = Timestamp::default();
    let start = epoch.plus(SystemClock.now().since(epoch) - 3 * DAY);
    World::on(
        connections(&server.redis()),
        Settings {
            start,
            ..Settings::default()
        },
    )
    .await
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
        let world = days_ago(&server).await;
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
        let peer = SmtpPeer::start(|received| match received.command.as_str() {
            "." => Act::Drip("250 2.0.0 ok", 250),
            command => agree(command),
        })
        .await;
        let workers = [
            start_worker(&server, &world, &peer),
            start_worker(&server, &world, &peer),
        ];
        peer.wait_for_command(".", IN_FLIGHT).await;
        server.has_memory(false);
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

        server.has_memory(true);
        eventually("the rest", async || {
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
