//! Accounts share a destination fairly. All accounts with due jobs there get the same number of
//! attempts, however many jobs the others have and however long those have waited.

use std::collections::BTreeMap;

use domain::account::Account;
use domain::address::Address;
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::event::EventKind;
use domain::job::JobId;
use domain::pace::{Breaker, Pace, PaceLimits};
use harness::bounce::{FULL, OK, UNKNOWN, bounce};
use harness::redis;
use harness::world::{DAY, HOUR, MS, SECOND, Settings, World};
use serde_json::{Value, json};
use store::claim::LeasedJob;
use store::destination_controls::Waiting;
use store::facts::FactAnswer;
use store::keys::Keys;
use store::repair::Repaired;
use store::schedule::Answer;

const HOST: &str = "example.com";

/// The policy's first delay for a full system, with the most jitter.
const LONGEST_DELAY: std::time::Duration = std::time::Duration::from_secs(27 * 3_600);

#[tokio::test]
async fn a_job_of_a_small_account_is_tried_within_a_few_attempts_next_to_a_backlog_of_another() {
    let world = World::with(limited(10.0, 1.0, 500)).await;
    post(&world, "big", 1_000).await;
    world.clock.advance(LONGEST_DELAY);
    for expected in 1..=50 {
        assert_eq!(claim(&world, 100).await.len(), 1, "attempt {expected}");
        world.clock.advance(100 * MS);
    }
    for n in 0..5 {
        post_due_now(&world, "small", n).await;
        let mut others = 0;
        while accounts(&claim(&world, 100).await) != ["small"] {
            others += 1;
            assert!(others <= 2, "the small account is next after two attempts");
            world.clock.advance(100 * MS);
        }
        world.clock.advance(100 * MS);
    }
}

#[tokio::test]
async fn accounts_with_due_jobs_get_equally_many_attempts_and_each_tries_its_first_job_first() {
    let sizes = [("a", 300), ("b", 100), ("c", 30)];
    for batch in [1, 2, 7, 100] {
        let world = World::with(limited(0.0, 1.0, 100_000)).await;
        for (account, count) in sizes {
            post(&world, account, count).await;
        }
        world.clock.advance(2 * LONGEST_DELAY);
        let (mut tried, mut last_due) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..430_usize.div_ceil(batch) {
            let jobs = claim(&world, batch).await;
            for leased in &jobs {
                let account = account_of(leased);
                *tried.entry(account.clone()).or_insert(0) += 1;
                let before = last_due.insert(account, leased.lease.due);
                assert!(before.is_none_or(|before| before <= leased.lease.due));
            }
            // Those that still have due jobs have been given as many as any other.
            let most = tried.values().copied().max().unwrap();
            for (account, count) in sizes {
                let tried = tried.get(account).copied().unwrap_or(0);
                assert!(
                    tried == count || tried + 1 >= most,
                    "{account} has {tried} of {most}, with {batch} attempts at once"
                );
            }
            world.clock.advance(MS);
        }
        let wanted = sizes.map(|(account, count)| (account.to_owned(), count));
        assert_eq!(tried, BTreeMap::from(wanted), "each job is tried once");
        assert_eq!(claim(&world, 10).await.len(), 0);
    }
}

#[tokio::test]
async fn an_account_whose_jobs_become_due_one_by_one_takes_no_more_than_its_part() {
    for first in ["backlog", "trickle"] {
        let world = World::with(limited(10.0, 1.0, 500)).await;
        if first == "trickle" {
            post_due_now(&world, "trickle", 1_000).await;
        }
        post(&world, "backlog", 100).await;
        post(&world, "other", 100).await;
        world.clock.advance(LONGEST_DELAY);
        let (mut tried, mut waits) = (BTreeMap::new(), false);
        for n in 0..60 {
            if !waits {
                post_due_now(&world, "trickle", n).await;
            }
            let claimed = accounts(&claim(&world, 100).await);
            waits = !claimed.contains(&"trickle".to_owned());
            for account in claimed {
                *tried.entry(account).or_insert(0) += 1;
            }
            world.clock.advance(100 * MS);
        }
        let least = [("backlog", 19), ("other", 19), ("trickle", 14)];
        for (account, least) in least {
            assert!((least..=24).contains(&tried[account]), "{tried:?}");
        }
    }
}

#[tokio::test]
async fn a_job_of_any_account_is_claimed_as_soon_as_it_is_due() {
    let world = World::with(limited(0.0, 1.0, 500)).await;
    let mut due = Vec::new();
    for n in 0..30 {
        let account = ["a", "b", "c"][n % 3];
        let Answer::Scheduled { due: at } = world.post_bounce(bounce_of(account, n)).await else {
            panic!("each address is new")
        };
        due.push((at, account));
        world.clock.advance(7 * 60 * SECOND);
    }
    due.sort_unstable();
    for (n, (at, account)) in due.iter().enumerate() {
        world.clock.set(Timestamp::from_ms(at.ms() - 1));
        assert_eq!(claim(&world, 10).await.len(), 0);
        world.clock.set(*at);
        let claimed = world.claim_near(HOST, 10).await;
        assert_eq!(accounts(&claimed.jobs), [*account], "job {n}");
        assert_eq!(claimed.jobs[0].lease.due, *at);
        assert_eq!(claimed.next_visit, due.get(n + 1).map(|(at, _)| *at));
        world.attempt_and_settle(claimed.jobs, OK).await;
    }
}

#[tokio::test]
async fn the_jobs_of_all_accounts_are_counted() {
    let world = World::with(limited(0.0, 1.0, 500)).await;
    let mut due = Vec::new();
    for (account, count) in [("a", 2), ("b", 5), ("c", 3)] {
        for n in 0..count {
            if let Answer::Scheduled { due: at } = world.post_bounce(bounce_of(account, n)).await {
                due.push(at);
            }
        }
    }
    due.sort_unstable();
    world.clock.set(due[3]);
    let (store, host) = (&world.store, Destination::named(HOST));
    let waiting = Waiting {
        jobs: 10,
        next_due: Some(due[0]),
    };
    assert_eq!(store.waiting(&host).await.unwrap(), waiting);
    let (listed, _) = store.destinations_after(None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].waiting, waiting);
    let fleet = store.read_fleet(SECOND).await.unwrap();
    let within = fleet.due + fleet.within_1h + fleet.within_24h + fleet.within_7d + fleet.later;
    assert_eq!((fleet.jobs, within, fleet.destinations), (10, 10, 1));
    let is_due = due.iter().filter(|at| **at <= world.now()).count();
    assert_eq!(fleet.due, is_due as u64);
    assert_eq!(
        fleet.oldest_due_ms,
        world.now().since(due[0]).as_millis() as u64
    );
}

#[tokio::test]
async fn a_waiting_job_of_any_account_can_be_ended_and_brought_forward() {
    let world = World::with(limited(0.0, 1.0, 500)).await;
    for account in ["a", "b", "c"] {
        post(&world, account, 4).await;
    }
    for account in ["a", "b", "c"] {
        let fact = |kind: &str, n: usize| {
            let recipient = address(n);
            json!({"type": kind, "recipient": recipient, "account": account})
        };
        let mut gone = bounce(&address(0), "m2", UNKNOWN);
        gone["account"] = account.into();
        assert!(matches!(world.post_bounce(gone).await, Answer::Retired(_)));
        let answer = world.report_fact(fact("complaint", 1)).await;
        assert!(matches!(answer, FactAnswer::Suppressed(_)), "{answer:?}");
        world.clock.advance(2 * HOUR);
        let now = world.now();
        assert_eq!(
            world.report_fact(fact("engaged", 2)).await,
            FactAnswer::Resumed { due: now }
        );
        let due = |n: usize| {
            let (store, id) = (&world.store, job_id(account, n));
            async move { store.address(&id).await.unwrap().job.map(|job| job.due) }
        };
        assert_eq!(due(0).await, None);
        assert_eq!(due(1).await, None);
        assert_eq!(due(2).await, Some(Some(now)));
        assert!(due(3).await.flatten() > Some(now));
    }
    assert_eq!(claim(&world, 10).await.len(), 3);
    world.clock.advance(LONGEST_DELAY);
    let jobs = claim(&world, 10).await;
    assert_eq!(
        jobs.len(),
        6,
        "three leases ran out, and three jobs became due"
    );
    assert_eq!(repair(&world).await, Repaired::default());
}

#[tokio::test]
async fn a_destination_with_jobs_of_one_account_needs_no_more_keys_than_before() {
    let world = World::with(limited(0.0, 1.0, 500)).await;
    let keys_of_turns = async || {
        let pattern = format!("{}:*", world.prefix);
        let keys = redis::ask(&redis::url(), &["KEYS", &pattern]).await;
        let pace = ask(&world, &["HEXISTS", &format!("pace:{HOST}"), "turn"]).await;
        (
            keys.matches(":accounts:").count() + keys.matches(":due_of:").count(),
            pace == ":1\r\n",
        )
    };
    post(&world, "a", 10).await;
    assert_eq!(keys_of_turns().await, (0, false));
    post(&world, "b", 20).await;
    assert_eq!(keys_of_turns().await, (2, true));
    world.clock.advance(LONGEST_DELAY);
    // Ten of each account.
    assert_eq!(claim(&world, 20).await.len(), 20);
    assert_eq!(
        keys_of_turns().await,
        (0, false),
        "only one account is left"
    );
    assert_eq!(claim(&world, 20).await.len(), 10);
    assert_eq!(keys_of_turns().await, (0, false));
    assert_eq!(repair(&world).await, Repaired::default());
}

#[tokio::test]
async fn accounts_take_turns_also_after_the_clock_was_set_back() {
    let world = World::with(limited(10.0, 1.0, 500)).await;
    for account in ["a", "b", "c"] {
        post(&world, account, 40).await;
    }
    world.clock.advance(LONGEST_DELAY + HOUR);
    let mut tried = BTreeMap::new();
    for n in 0..60 {
        if n == 30 {
            world.clock.set(Timestamp::from_ms(
                world.now().ms() - HOUR.as_millis() as i64,
            ));
            repair(&world).await;
        }
        for account in accounts(&claim(&world, 100).await) {
            *tried.entry(account).or_insert(0) += 1;
        }
        world.clock.advance(100 * MS);
    }
    assert!(
        tried.len() == 3 && tried.values().all(|count| (19..=21).contains(count)),
        "{tried:?}"
    );
}

#[tokio::test]
async fn jobs_that_the_version_before_kept_in_one_set_are_found_and_then_shared() {
    let mut world = World::with(limited(0.0, 1.0, 500)).await;
    post(&world, "b", 10).await;
    post(&world, "a", 30).await;
    let due = key(&world, &format!("due:{HOST}"));
    let other = key(&world, &format!("due_of:a/{HOST}"));
    redis::ask(&redis::url(), &["ZUNIONSTORE", &due, "2", &due, &other]).await;
    ask(&world, &["DEL", &format!("due_of:a/{HOST}")]).await;
    ask(&world, &["DEL", &format!("accounts:{HOST}")]).await;
    ask(&world, &["HDEL", &format!("pace:{HOST}"), "turn"]).await;
    let meta = format!("{}:meta", world.prefix);
    redis::ask(&redis::url(), &["HSET", &meta, "schema", "5"]).await;

    world.restart().await;
    let schema = redis::ask(&redis::url(), &["HGET", &meta, "schema"]).await;
    assert_eq!(
        schema, "$1\r\n6\r\n",
        "the version before cannot start any more"
    );
    let mut gone = bounce(&address(0), "m2", UNKNOWN);
    gone["account"] = "a".into();
    assert!(matches!(world.post_bounce(gone).await, Answer::Retired(_)));
    let host = Destination::named(HOST);
    let before = world.store.waiting(&host).await.unwrap();
    assert_eq!(before.jobs, 39);
    assert_eq!(repair(&world).await, Repaired::default());
    assert_eq!(world.store.waiting(&host).await.unwrap(), before);
    world.clock.advance(LONGEST_DELAY);
    let tried = accounts(&claim(&world, 20).await);
    for account in ["a", "b"] {
        assert_eq!(
            tried.iter().filter(|tried| *tried == account).count(),
            10,
            "{tried:?}"
        );
    }
    assert_eq!(claim(&world, 100).await.len(), 19);
    assert_eq!(world.events_of(EventKind::JobRecovered).await, []);
}

#[tokio::test]
async fn accounts_that_no_visit_would_find_are_repaired() {
    for broken in [
        vec!["DEL", "accounts:example.com"],
        vec!["SET", "accounts:example.com", "x"],
        vec!["HDEL", "pace:example.com", "turn"],
        vec!["HSET", "pace:example.com", "turn", "x"],
        vec!["SET", "pace:example.com", "x"],
        vec!["DEL", "due:example.com"],
        vec!["SET", "due:example.com", "x"],
        vec!["DEL", "due_of:b/example.com"],
        vec!["SET", "due_of:b/example.com", "x"],
    ] {
        let world = World::with(limited(0.0, 1.0, 500)).await;
        for account in ["a", "b", "c"] {
            post(&world, account, 10).await;
        }
        world.clock.advance(LONGEST_DELAY);
        ask(&world, &broken).await;
        // A claim may come before the repair, and must not fail.
        let mut tried = accounts(&claim(&world, 6).await);
        repair(&world).await;
        assert_eq!(repair(&world).await, Repaired::default(), "{broken:?}");
        for _ in 0..30 {
            tried.extend(accounts(&claim(&world, 3).await));
        }
        for account in ["a", "b", "c"] {
            assert_eq!(
                tried.iter().filter(|tried| *tried == account).count(),
                10,
                "{broken:?}: {tried:?}"
            );
        }
    }
}

/// Schedules `count` jobs of an account, in one batch after the other.
async fn post(world: &World, account: &str, count: usize) {
    world
        .post_bounces((0..count).map(|n| bounce_of(account, n)))
        .await;
}

/// Schedules a job that is due at once.
async fn post_due_now(world: &World, account: &str, n: usize) {
    let mut posted = bounce_of(account, 10_000 + n);
    let occurred = world.now().ms() - 2 * DAY.as_millis() as i64;
    posted["occurred_at"] = Timestamp::from_ms(occurred).to_string().into();
    assert_eq!(
        world.post_bounce(posted).await,
        Answer::Scheduled { due: world.now() }
    );
}

fn bounce_of(account: &str, n: usize) -> Value {
    let mut posted = bounce(&address(n), "m1", FULL);
    posted["account"] = account.into();
    posted
}

fn address(n: usize) -> String {
    format!("user{n}@{HOST}")
}

fn job_id(account: &str, n: usize) -> JobId {
    JobId {
        account: Account::parse(account).unwrap(),
        recipient: Address::parse(&address(n)).unwrap(),
    }
}

async fn claim(world: &World, batch: usize) -> Vec<LeasedJob> {
    world.claim_near(HOST, batch).await.jobs
}

fn account_of(leased: &LeasedJob) -> String {
    leased.job.id.account.to_string()
}

fn accounts(jobs: &[LeasedJob]) -> Vec<String> {
    jobs.iter().map(account_of).collect()
}

async fn repair(world: &World) -> Repaired {
    let shard = Destination::named(HOST).shard(world.store.shards());
    world.store.repair(shard).await.unwrap()
}

fn key(world: &World, name: &str) -> String {
    let shards = world.store.shards();
    let shard = Destination::named(HOST).shard(shards);
    let keys = Keys::new(&world.prefix, shards);
    format!("{}{name}", keys.shard(shard).prefix)
}

/// Runs a command on a key of the destination's shard.
async fn ask(world: &World, command: &[&str]) -> String {
    let key = key(world, command[1]);
    let words: Vec<&str> = [command[0], &key]
        .into_iter()
        .chain(command[2..].iter().copied())
        .collect();
    redis::ask(&redis::url(), &words).await
}

/// A fleet with these limits, and breakers that never open.
fn limited(rate: f64, burst: f64, window: u32) -> Settings {
    let pace = Settings::default().pace;
    let breaker = Breaker {
        failures: 1_000_000,
        samples: 1_000_000,
        ..pace.breaker
    };
    let limits = PaceLimits {
        rate,
        burst,
        window,
    };
    Settings {
        pace: Pace {
            limits,
            window_new: window,
            window,
            breaker,
            ..pace
        },
        ..Settings::default()
    }
}
