//! A world in which every script has work to do, for tests that run each of them.

use std::time::Duration;

use domain::account::Accounts;
use domain::destination::Destination;
use domain::event::{Event, EventLines};
use domain::fact::FactKind;
use domain::job::End;
use domain::outcome::Outcome;
use domain::pace::{DestinationRule, Feedback, PaceLimits};
use domain::reply::Reply;
use domain::tally::{Tally, TallyResult};
use harness::bounce::{FULL, FULL_FOR_GOOD, OK, bounce};
use harness::servers::Servers;
use harness::world::{DAY, HOUR, LEASE, Settings, World, id};
use store::claim::{ClaimBounds, Lease, LeasedJob};
use store::connection::pool::Connections;
use store::error::StoreError;
use store::facts::{FactOrCommand, ReportedFact};
use store::keys::Keys;
use store::lease::{Extended, ReleaseReason};
use store::refute::Refutation;
use store::repair::Repaired;
use store::schedule::Answer;
use store::seen_webhooks::RequestClaim;
use store::server_checks::{Finding, ServerReport, Severity};
use store::settle::{SettleCall, Settled, Settlement};
use tempfile::TempDir;

use crate::deployments::connections;

/// The address's attempt has ended, but is not settled yet.
pub(crate) const ENDED: &str = "ended@example.com";
/// The job is leased.
pub(crate) const LEASED: &str = "leased@example.com";
/// The job's lease has run out.
pub(crate) const LAPSED: &str = "lapsed@example.com";
/// The job is due.
pub(crate) const DUE: &str = "due@example.com";
/// The job is in quarantine.
pub(crate) const QUARANTINED: &str = "kept@example.com";
/// The job is in no set at all.
pub(crate) const LOST: &str = "lost@example.com";
/// A relay has accepted the job's message.
pub(crate) const ACCEPTED: &str = "accepted@example.com";
/// The job waits until the server of a route can be reached.
pub(crate) const HELD: &str = "held@example.com";
/// The address is unavailable, and that time is over.
const UNAVAILABLE: &str = "unavailable@example.com";

/// The domain of all these addresses.
const DESTINATION: &str = "example.com";

/// How long a message that a relay accepted waits for a bounce.
const CONFIRM: Duration = Duration::from_secs(20 * 86_400);

/// A server whose memory can be full.
pub(crate) struct Server {
    servers: Servers,
    port: u16,
    folder: TempDir,
}

impl Server {
    pub(crate) async fn start(program: &str) -> Self {
        let servers = Servers::new(program);
        let folder = TempDir::with_prefix("redeliver-server-").unwrap();
        let socket = format!("unixsocket {}", folder.path().join("server.sock").display());
        let port = servers
            .start(&["maxmemory-policy noeviction", &socket])
            .await;
        Self {
            servers,
            port,
            folder,
        }
    }

    /// Makes the memory full, or free again.
    pub(crate) fn set_full(&self, is_full: bool) {
        let limit = if is_full { "1" } else { "0" };
        assert_eq!(self.cli(&["CONFIG", "SET", "maxmemory", limit]), "OK");
    }

    pub(crate) fn cli(&self, command: &[&str]) -> String {
        self.servers
            .cli(self.port, command)
            .expect("the server answers")
    }

    /// A digest of all data in the server.
    pub(crate) fn digest(&self) -> String {
        self.cli(&["DEBUG", "DIGEST"])
    }

    /// Its settings for a program.
    pub(crate) fn redis(&self) -> String {
        format!("url = \"redis://127.0.0.1:{}\"\n", self.port)
    }

    /// Its URL over a Unix socket.
    pub(crate) fn socket_url(&self) -> String {
        format!(
            "redis+unix://{}",
            self.folder.path().join("server.sock").display()
        )
    }
}

/// A world in which every script has work to do.
pub(crate) struct Prepared {
    pub(crate) world: World,
    settlement: Settlement,
    leased: Lease,
    request_claim: RequestClaim,
}

impl Prepared {
    pub(crate) async fn on(server: &Server) -> Self {
        Self::over(connections(&server.redis()), server).await
    }

    /// The same, over connections that lead to the server in another way.
    pub(crate) async fn over(connections: Connections, server: &Server) -> Self {
        let settings = Settings {
            max_lapses: 1,
            confirm: CONFIRM,
            ..Settings::default()
        };
        let world = World::on(connections, settings).await;
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

        let crashed = lease(&world, QUARANTINED).await;
        assert!(world.crash(&crashed.lease).await);
        let ended = lease(&world, ENDED).await;
        let settlement = world.attempt(ended).await;
        extend_for_long(&world, &settlement.lease).await;
        let leased = lease(&world, LEASED).await.lease;
        extend_for_long(&world, &leased).await;
        lease(&world, LAPSED).await;
        world.clock.advance(LEASE);
        world.post_bounce(bounce(LOST, "m1", FULL)).await;
        world.post_and_wait_until_due(bounce(DUE, "m1", FULL)).await;

        // Values that only an error or an earlier time leaves behind, so that upkeep has work to
        // do.
        let keys = Keys::new(&world.prefix, world.store.shards());
        let keys = keys.shard(shard(&world));
        server.cli(&["ZREM", &keys.due(DESTINATION), &id(LOST).key()]);
        server.cli(&["HSET", &keys.pace(DESTINATION), "in_flight", "70"]);
        server.cli(&["ZADD", &keys.trouble(), "1", "well.example"]);
        server.cli(&["HSET", keys.meanwhile(), "default/gone@example.com", "1 0"]);
        server.cli(&["HSET", keys.leased(), "999-0000000000000000", "1"]);
        // A job that waits until the server of its route can be reached again.
        let waits = world.post_bounce(bounce(HELD, "m1", FULL)).await;
        let Answer::Scheduled { due } = waits else {
            panic!("the address is new")
        };
        let entry = format!("{DESTINATION} {}", id(HELD).key());
        let route = format!("{}route:relay", keys.prefix);
        server.cli(&["ZADD", &route, &due.ms().to_string(), &entry]);
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
    pub(crate) async fn run(&self, verb: &str) -> Result<(), StoreError> {
        let Self {
            world,
            settlement,
            leased,
            request_claim,
        } = self;
        let (store, there) = (&world.store, Destination::named(DESTINATION));
        match verb {
            "schedule" => drop(
                world
                    .try_post_bounce(bounce("new@example.com", "m1", FULL))
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
            "release_route" => assert_eq!(store.release_route("relay").await?, 1),
            "silent" => drop(store.note_silence(shard(world), &[(there, DAY)]).await?),
            "facts" => {
                let what = FactOrCommand::Fact(FactKind::Complaint);
                let fact = ReportedFact {
                    job: id(DUE),
                    destination: there,
                    what,
                    occurred_at: None,
                    message_id: None,
                    source: "api",
                    note: None,
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
                    name: DESTINATION.to_owned(),
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
            "put_back" => assert!(store.put_back(&id(QUARANTINED)).await?),
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
            "waiting" => assert_eq!(store.waiting(&there).await?.jobs, 3),
            "trim_marks" => assert_eq!(store.trim_marks(shard(world)).await?, 1),
            "trim_trouble" => assert_eq!(store.trim_trouble(shard(world)).await?, 1),
            other => {
                panic!("add here how {other} is run, and what it must do when memory is full")
            }
        }
        Ok(())
    }

    /// Works until no job is left.
    pub(crate) async fn work_to_the_end(&self) {
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
        store
            .unhold(&Destination::named(DESTINATION))
            .await
            .unwrap();
        store
            .override_limits(&Destination::named(DESTINATION), None)
            .await
            .unwrap();
        for _ in 0..4 {
            store.repair(shard(world)).await.unwrap();
            let quarantined = store.quarantine(&Accounts::All, None, 9).await.unwrap();
            for kept in quarantined.jobs {
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

pub(crate) fn shard(world: &World) -> u16 {
    Destination::named(DESTINATION).shard(world.store.shards())
}
