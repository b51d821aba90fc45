//! Upkeep finds and repairs inconsistent data in Redis. It changes nothing in consistent data.

use domain::destination::Destination;
use domain::event::EventKind;
use domain::pace::{DestinationRule, PaceLimits};
use harness::bounce::{FULL, MAINTENANCE, OK, UNKNOWN, bounce};
use harness::port::free_port;
use harness::process::Redeliver;
use harness::redis;
use harness::wait::eventually;
use harness::world::{LEASE, MS, Settings, World, id};
use scheduler::upkeep::Task;
use scheduler::upkeep::repair::Repair;
use serde_json::{Value, json};
use store::claim::LeasedJob;
use store::keys::Keys;
use store::repair::{Recount, Repaired};
use store::settle::Settled;

const HOST: &str = "example.com";
const JO: &str = "jo@example.com";
const SAM: &str = "sam@example.com";

#[tokio::test]
async fn a_leased_job_whose_lease_entry_is_gone_is_due_again_and_its_lease_is_void() {
    let world = World::new().await;
    let leased = leased(&world, JO).await;
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    let token = leased.lease.token;
    by_hand(
        &world,
        &["ZREM", &key(&world, "leases"), &token.to_string()],
    )
    .await;
    assert_eq!(
        world.claim().await.len(),
        0,
        "no other worker would ever get the job"
    );

    let repaired = repair(&world).await;
    assert_eq!(repaired.recovered, [(Destination::named(HOST), 1)].into());
    assert_eq!(
        (repaired.recounted, repaired.swept),
        (vec![recount(1, 0)], 1)
    );
    assert_eq!(world.job(JO).await.due, Some(world.now()));
    let recovered = world.events_of(EventKind::JobRecovered).await;
    assert_eq!(
        recovered
            .iter()
            .map(|event| event.job.to_string())
            .collect::<Vec<_>>(),
        [id(JO).key()]
    );
    assert_eq!(
        repair(&world).await,
        Repaired::default(),
        "a second repair finds nothing"
    );

    world.mail.reply_with(OK);
    let again = world.claim_one().await;
    assert_eq!(
        (again.job.head.attempt, again.job.messages.len()),
        (0, 2),
        "with all messages that joined meanwhile"
    );
    let late = world.attempt(leased).await;
    assert_eq!(world.settle(&late).await, Settled::Stale);
    assert_eq!(world.pace(HOST).await.in_flight, 1);
    let settlement = world.attempt(again).await;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
    assert_eq!(
        (
            world.pace(HOST).await.in_flight,
            world.final_events().await.len()
        ),
        (0, 2)
    );
}

#[tokio::test]
async fn a_repair_is_logged_as_an_error_that_names_the_destination_and_no_address() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world
        .post_bounce(bounce("jo@other.example", "m1", FULL))
        .await;
    let keys = Keys::new(&world.prefix, world.store.shards());
    for (domain, address) in [(HOST, JO), ("other.example", "jo@other.example")] {
        let shard = keys.shard(Destination::named(domain).shard(world.store.shards()));
        by_hand(&world, &["ZREM", &shard.due(domain), &id(address).key()]).await;
    }
    let scheduler = Redeliver::start(
        "scheduler",
        &format!(
            "[redis]\nurl = \"{}\"\nprefix = \"{}\"\nshards = {}\n[scheduler]\n\
             listen = \"127.0.0.1:{}\"\n\
             [upkeep]\nrepair = \"* * * * * *\"\n[log]\nformat = \"json\"\nfilter = \"error\"\n",
            redis::url(),
            world.prefix,
            world.store.shards(),
            free_port()
        ),
    );
    let alerts = eventually("the alerts", async || {
        Some(scheduler.log()).filter(|log| log.lines().count() >= 2)
    })
    .await;
    let mut lost: Vec<String> = Vec::new();
    for line in alerts.lines() {
        let alert: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&alert["level"], &alert["jobs"]),
            (&json!("ERROR"), &json!(1)),
            "{alert}"
        );
        assert!(
            alert["message"]
                .as_str()
                .unwrap()
                .starts_with("jobs were lost"),
            "{alert}"
        );
        lost.push(alert["destination"].as_str().unwrap().to_owned());
    }
    lost.sort_unstable();
    assert_eq!(lost, [HOST, "other.example"]);
    assert!(!alerts.contains("jo@"), "{alerts}");
    assert!(scheduler.terminate().await.success());
}

#[tokio::test]
async fn a_void_lease_settles_nothing_even_before_its_jobs_are_removed_from_it() {
    let world = World::new().await;
    let first = leased(&world, JO).await;
    by_hand(
        &world,
        &[
            "ZREM",
            &key(&world, "leases"),
            &first.lease.token.to_string(),
        ],
    )
    .await;
    repair(&world).await;
    // This simulates a repair that has not yet removed the jobs from the lease.
    let (token, ids) = (first.lease.token.to_string(), format!("\n{}", id(JO).key()));
    by_hand(
        &world,
        &[
            "HSET",
            &key(&world, "leased"),
            &token,
            "1",
            &format!("{token} ids"),
            &ids,
        ],
    )
    .await;
    let _second = world.claim_one().await;
    world.mail.reply_with(OK);
    let late = world.attempt(first).await;
    assert_eq!(world.settle(&late).await, Settled::Void);
    assert!(
        world.job(JO).await.leased_until.is_some(),
        "the job belongs to the second lease"
    );
}

#[tokio::test]
async fn a_job_missing_from_every_set_is_made_due_again() {
    let world = World::new().await;
    for address in [JO, SAM] {
        world
            .post_and_wait_until_due(bounce(address, "m1", FULL))
            .await;
    }
    let due = key(&world, &format!("due:{HOST}"));
    by_hand(&world, &["ZREM", &due, &id(JO).key()]).await;
    let repaired = repair(&world).await;
    assert_eq!(
        repaired,
        Repaired {
            recovered: [(Destination::named(HOST), 1)].into(),
            ..Repaired::default()
        }
    );
    let leased = world.claim().await;
    assert_eq!(leased.len(), 2);

    // Now a lease loses its jobs.
    by_hand(
        &world,
        &[
            "HDEL",
            &key(&world, "leased"),
            &leased[0].lease.token.to_string(),
        ],
    )
    .await;
    let repaired = repair(&world).await;
    assert_eq!(repaired.recovered, [(Destination::named(HOST), 2)].into());
    assert_eq!(repaired.recounted, [recount(2, 0)]);
    assert_eq!(world.claim().await.len(), 2);
}

#[tokio::test]
async fn a_job_missing_from_the_quarantine_set_is_made_due_again() {
    let world = World::with(Settings {
        max_lapses: 1,
        ..Settings::default()
    })
    .await;
    let leased = leased(&world, JO).await;
    assert!(world.crash(&leased.lease).await);
    assert_eq!(
        repair(&world).await,
        Repaired::default(),
        "a job in the quarantine set needs no repair"
    );
    by_hand(&world, &["DEL", &key(&world, "quarantine")]).await;
    assert_eq!(repair(&world).await.recovered.len(), 1);
    assert_eq!(world.claim().await.len(), 1);
}

#[tokio::test]
async fn a_destination_with_due_jobs_that_is_missing_from_the_agenda_is_added_to_it() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    by_hand(&world, &["DEL", &key(&world, "agenda")]).await;
    assert_eq!(world.claim().await.len(), 0);
    let woken = Repaired {
        woken: [Destination::named(HOST)].into(),
        ..Repaired::default()
    };
    assert_eq!(repair(&world).await, woken);
    assert_eq!(world.claim().await.len(), 1);
    assert_eq!(world.events_of(EventKind::JobRecovered).await, []);
}

#[tokio::test]
async fn a_wrong_count_of_attempts_in_flight_is_corrected_in_either_direction() {
    let world = World::new().await;
    let pace = key(&world, &format!("pace:{HOST}"));
    world.post_due_jobs(HOST, 2).await;
    assert_eq!(world.claim_near(HOST, 1).await.jobs.len(), 1);
    by_hand(&world, &["HSET", &pace, "in_flight", "500"]).await;
    assert_eq!(
        world.claim().await.len(),
        0,
        "there is no room, and without a repair there never is"
    );
    assert_eq!(repair(&world).await.recounted, [recount(500, 1)]);
    assert_eq!(
        world.claim().await.len(),
        1,
        "the destination is visited at once"
    );
    by_hand(&world, &["HDEL", &pace, "in_flight"]).await;
    assert_eq!(repair(&world).await.recounted, [recount(0, 2)]);
    assert_eq!(world.pace(HOST).await.in_flight, 2);
}

#[tokio::test]
async fn consistent_data_is_not_changed() {
    let world = World::with(Settings {
        max_lapses: 1,
        ..Settings::default()
    })
    .await;
    // Jobs in quarantine, leased and waiting. They are more than one page of the repair.
    let crashed = leased(&world, "crashed@example.com").await;
    world.crash(&crashed.lease).await;
    world.post_due_jobs(HOST, 300).await;
    assert_eq!(world.claim_near(HOST, 7).await.jobs.len(), 7);
    world
        .post_bounce(bounce("joined@example.com", "m1", FULL))
        .await;
    let before = dump(&world).await;
    for _ in 0..2 {
        assert_eq!(Repair.run_once(&world.store).await.unwrap(), 0);
        assert_eq!(dump(&world).await, before);
    }
}

#[tokio::test]
async fn all_inconsistent_jobs_are_found_however_many_there_are() {
    let world = World::new().await;
    world.post_due_jobs(HOST, 1_500).await;
    by_hand(&world, &["DEL", &key(&world, &format!("due:{HOST}"))]).await;
    assert_eq!(
        repair(&world).await.recovered,
        [(Destination::named(HOST), 1_500)].into()
    );
    assert_eq!(world.events_of(EventKind::JobRecovered).await.len(), 1_500);
}

#[tokio::test]
async fn repairs_during_normal_work_lose_and_duplicate_no_job() {
    let world = World::new().await;
    world.post_due_jobs(HOST, 400).await;
    world.mail.reply_with(OK);
    let work = async {
        while world.final_events().await.len() < 400 {
            let jobs = world.claim().await;
            for leased in jobs {
                let settlement = world.attempt(leased).await;
                assert_eq!(world.settle(&settlement).await, Settled::Done);
            }
        }
    };
    let repairs = async {
        loop {
            assert_eq!(Repair.run_once(&world.store).await.unwrap(), 0);
        }
    };
    tokio::select! {
        () = work => {}
        () = repairs => {}
    }
    assert_eq!(world.mail.tried().len(), 400);
}

#[tokio::test]
async fn a_lease_that_lost_its_job_ids_ends_and_its_jobs_become_due_again() {
    let world = World::new().await;
    let lost = leased(&world, JO).await;
    by_hand(
        &world,
        &[
            "HDEL",
            &key(&world, "leased"),
            &format!("{} ids", lost.lease.token),
        ],
    )
    .await;
    world.clock.advance(LEASE + MS);
    assert!(
        world.claim().await.is_empty(),
        "no record shows that Jo's job was in the lease"
    );
    assert_eq!(
        redis::ask(&redis::url(), &["ZCARD", &key(&world, "leases")]).await,
        ":0\r\n"
    );
    assert_eq!(
        repair(&world).await.recovered,
        [(Destination::named(HOST), 1)].into()
    );
    assert_eq!(world.claim().await.len(), 1);
}

#[tokio::test]
async fn marks_of_retired_addresses_are_removed_when_all_leases_of_that_time_have_ended() {
    let world = World::new().await;
    let old = leased(&world, JO).await;
    world.post_bounce(bounce(JO, "m2", UNKNOWN)).await;
    let marks = key(&world, "meanwhile");
    let trim = async || world.store.trim_marks(shard(&world)).await.unwrap();
    assert_eq!(trim().await, 0, "the lease can still be settled");
    assert_eq!(redis::ask(&redis::url(), &["HLEN", &marks]).await, ":1\r\n");

    let younger = leased(&world, SAM).await;
    world.post_bounce(bounce(SAM, "m2", FULL)).await;
    let late = world.attempt(old).await;
    assert_eq!(world.settle(&late).await, Settled::Stale);
    assert_eq!(
        trim().await,
        1,
        "the remaining lease is younger than the mark"
    );
    assert_eq!(
        redis::ask(&redis::url(), &["HLEN", &marks]).await,
        ":1\r\n",
        "the message that joined still waits"
    );
    world.mail.reply_with(MAINTENANCE);
    let settlement = world.attempt(younger).await;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
    assert_eq!(world.waiting(SAM).await, ["m1", "m2"]);
}

#[tokio::test]
async fn changed_limits_reach_a_waiting_destination_without_a_new_bounce() {
    let limits = PaceLimits {
        rate: 0.0,
        burst: 10.0,
        window: 2,
    };
    let rules = vec![DestinationRule {
        name: HOST.to_owned(),
        limits,
    }];
    let world = World::with(Settings {
        rules,
        ..Settings::default()
    })
    .await;
    world.post_due_jobs(HOST, 6).await;
    assert_eq!(world.claim().await.len(), 2);

    let wider = PaceLimits {
        window: 3,
        ..limits
    };
    let changed = world.store.clone().with_rules(&[DestinationRule {
        name: "*".to_owned(),
        limits: wider,
    }]);
    assert_eq!(changed.limit().await.unwrap(), 1);
    assert_eq!(
        changed.limit().await.unwrap(),
        0,
        "the limits are already applied"
    );
    assert_eq!(world.pace(HOST).await.limits, Some(wider));
    assert_eq!(
        world.claim().await.len(),
        1,
        "the destination is visited at once"
    );

    let removed = world.store.clone().with_rules(&[]);
    assert_eq!(
        Repair.run_once(&removed).await.unwrap(),
        1,
        "upkeep applies the limits too"
    );
    assert_eq!(world.pace(HOST).await.limits, None);
    assert_eq!(world.claim().await.len(), 3);
}

async fn leased(world: &World, address: &str) -> LeasedJob {
    world
        .post_and_wait_until_due(bounce(address, "m1", FULL))
        .await;
    world.claim_one().await
}

async fn repair(world: &World) -> Repaired {
    for other in (0..world.store.shards()).filter(|other| *other != shard(world)) {
        assert_eq!(
            world.store.repair(other).await.unwrap(),
            Repaired::default()
        );
    }
    world.store.repair(shard(world)).await.unwrap()
}

fn shard(world: &World) -> u16 {
    Destination::named(HOST).shard(world.store.shards())
}

fn recount(recorded: i64, counted: i64) -> Recount {
    Recount {
        destination: Destination::named(HOST),
        recorded,
        counted,
    }
}

fn key(world: &World, name: &str) -> String {
    format!(
        "{}{name}",
        Keys::new(&world.prefix, world.store.shards())
            .shard(shard(world))
            .prefix
    )
}

/// Changes Redis directly, as none of our programs would.
async fn by_hand(world: &World, words: &[&str]) {
    assert!(words[1].starts_with(&world.prefix));
    redis::ask(&redis::url(), words).await;
}

/// All data of the shard.
async fn dump(world: &World) -> String {
    let prefix = key(world, "");
    // Redis may reorder the fields of hashes and the members of sets, so they are sorted.
    let script = r"local out, keys = {}, redis.call('KEYS', ARGV[1] .. '*')
        local read = { hash = 'HGETALL', set = 'SMEMBERS', zset = 'ZRANGE', string = 'GET',
            stream = 'XLEN' }
        for _, key in ipairs(keys) do
          local command = read[redis.call('TYPE', key).ok]
          local value = command == 'ZRANGE' and redis.call('ZRANGE', key, 0, -1,
              'WITHSCORES') or redis.call(command, key)
          if type(value) == 'table' then table.sort(value) value = table.concat(value, ' ') end
          out[#out + 1] = key .. ' ' .. redis.sha1hex(value)
        end
        table.sort(out)
        return table.concat(out, ' ')";
    redis::ask(&redis::url(), &["EVAL", script, "0", &prefix]).await
}
