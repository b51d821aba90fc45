//! The cost of a claim does not depend on how many jobs are due. No Lua script handles more values
//! than Lua allows, and no script blocks other calls to Redis for long.

use std::collections::HashSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::event::EventKind;
use domain::pace::Pace;
use harness::bounce::{FULL, bounce};
use harness::redis::ask;
use harness::world::{DAY, Deployment, LEASE, MS, Settings, World};
use private_servers::redis::PrivateRedis;
use store::claim::{ClaimBounds, LeasedJob};
use store::keys::Keys;

const JO: &str = "jo@example.com";

/// As many jobs as a campaign may have at one provider.
const MILLION: usize = 1_000_000;

const FEW: usize = 1_000;

const BATCH: usize = 100;

/// How many claims are measured.
const CLAIMS: usize = 8;

/// How much of Redis's time one script may take.
const SCRIPT_MAX: Duration = Duration::from_millis(100);

/// One of this many calls may take longer, because the machine may pause Redis for other work.
const STALLED_ONE_OF: usize = 8;

/// A flooded shard, on a separate Redis.
struct Flood {
    redis: PrivateRedis,
    world: World,
    keys: Keys,
    shard: u16,
}

impl Flood {
    async fn new() -> Self {
        let redis = PrivateRedis::volatile()
            .await
            .expect("redis-server is installed");
        // The test never settles an attempt, so every bounded window would soon be full.
        let world = World::with(Settings {
            redis: Deployment::Server(redis.url()),
            pace: Pace::unbounded(),
            ..Settings::default()
        })
        .await;
        let keys = Keys::new(&world.prefix, world.store.shards());
        let shard = Destination::named("example.com").shard(world.store.shards());
        Self {
            redis,
            world,
            keys,
            shard,
        }
    }

    async fn ask(&self, words: &[&str]) -> String {
        ask(&self.redis.url(), words).await
    }

    /// Adds copies of Jo's job with these numbers at the same destination, all due in the same
    /// millisecond. Posting a million bounces would take a minute.
    async fn multiply(&self, due: Timestamp, numbers: Range<usize>) {
        const STEP: usize = 20_000;
        const COPY: &str = "local record = redis.call('HGET', KEYS[1], ARGV[1]) \
                            for n = tonumber(ARGV[3]), tonumber(ARGV[4]) do \
                            local id = 'default/user' .. n .. '@example.com' \
                            redis.call('HSET', KEYS[1], id, record) \
                            redis.call('ZADD', KEYS[2], ARGV[2], id) end";
        let keys = self.keys.shard(self.shard);
        let (original, due_ms) = (format!("default/{JO}"), due.ms().to_string());
        for from in numbers.clone().step_by(STEP) {
            let (from, to) = (
                from.to_string(),
                (numbers.end.min(from + STEP) - 1).to_string(),
            );
            let keys = [keys.jobs(), &keys.due("example.com")];
            self.ask(&[
                "EVAL", COPY, "2", keys[0], keys[1], &original, &due_ms, &from, &to,
            ])
            .await;
        }
    }

    /// Leases all due jobs of that destination, in full batches.
    async fn lease_all(&self, deadline: Timestamp) {
        const LEASE: &str = "local n = 1000000 \
                             repeat local ids = redis.call('ZRANGE', KEYS[1], 0, 499) \
                             if #ids > 0 then redis.call('ZREMRANGEBYRANK', KEYS[1], 0, 499) \
                             n = n + 1 \
                             redis.call('HSET', KEYS[3], n, string.rep('1', #ids), \
                             n .. ' ids', '\\n' .. table.concat(ids, '\\n')) \
                             redis.call('ZADD', KEYS[2], ARGV[1], n) end \
                             until #ids == 0";
        let keys = self.keys.shard(self.shard);
        let (due, deadline) = (keys.due("example.com"), deadline.ms().to_string());
        self.ask(&[
            "EVAL",
            LEASE,
            "3",
            &due,
            keys.leases(),
            keys.leased(),
            &deadline,
        ])
        .await;
    }

    async fn count(&self, command: &str, key: &str) -> usize {
        self.number(&[command, key]).await
    }

    /// From now on Redis records every slow script.
    async fn watch_for_slow_scripts(&self) {
        let limit = SCRIPT_MAX.as_micros().to_string();
        self.ask(&["CONFIG", "SET", "slowlog-log-slower-than", &limit])
            .await;
        self.ask(&["SLOWLOG", "RESET"]).await;
        self.ask(&["CONFIG", "RESETSTAT"]).await;
    }

    async fn check_no_script_was_slow(&self) {
        let slow = self.number(&["SLOWLOG", "LEN"]).await;
        let calls = self.calls_of("evalsha").await;
        assert!(
            slow <= calls / STALLED_ONE_OF,
            "{slow} of {calls} scripts took longer than {SCRIPT_MAX:?}"
        );
    }

    /// How often a command was called since Redis began to record.
    async fn calls_of(&self, command: &str) -> usize {
        let stats = self.ask(&["INFO", "commandstats"]).await;
        let calls = stats
            .lines()
            .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        calls
            .and_then(|calls| calls.split(',').next()?.parse().ok())
            .unwrap_or_default()
    }

    async fn number(&self, words: &[&str]) -> usize {
        self.ask(words)
            .await
            .trim_start_matches(':')
            .trim_end()
            .parse()
            .unwrap()
    }

    async fn claim(&self) -> Vec<LeasedJob> {
        let bounds = ClaimBounds {
            batch: BATCH,
            share: BATCH,
            lease: LEASE,
            unproven: usize::MAX,
        };
        let claimed = self
            .world
            .store
            .claim(self.shard, bounds)
            .await
            .expect("Redis answers, and no script fails");
        assert!(claimed.corrupt.is_empty());
        assert!(claimed.jobs.len() <= BATCH, "{} jobs", claimed.jobs.len());
        claimed.jobs
    }

    /// The typical time of a claim.
    async fn time_of_a_claim(&self) -> Duration {
        let mut times = Vec::new();
        for _ in 0..CLAIMS {
            let asked = Instant::now();
            assert_eq!(self.claim().await.len(), BATCH);
            times.push(asked.elapsed());
        }
        times.sort();
        times[CLAIMS / 2]
    }
}

#[tokio::test]
async fn a_claim_takes_the_same_time_with_a_thousand_and_a_million_due_or_lapsed_jobs() {
    let flood = Flood::new().await;
    let world = &flood.world;
    let due = world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    flood.multiply(due, 1..FEW).await;
    let with_few = flood.time_of_a_claim().await;
    flood.multiply(due, FEW..FEW + MILLION).await;
    flood.watch_for_slow_scripts().await;
    let with_a_million = flood.time_of_a_claim().await;
    let most = 10 * with_few.max(10 * MS);
    assert!(
        with_a_million < most,
        "{with_few:?} with {FEW} due, {with_a_million:?} with {MILLION}"
    );

    // One job elsewhere in the shard does not wait until the million jobs are done.
    let elsewhere = (0..).map(|n| format!("other{n}.example"));
    let elsewhere = elsewhere
        .into_iter()
        .find(|name| Destination::named(name.as_str()).shard(4) == flood.shard)
        .unwrap();
    let mut long_ago = bounce(&format!("sam@{elsewhere}"), "m2", FULL);
    long_ago["occurred_at"] = "2026-11-01T00:00:00Z".into();
    world.post_bounce(long_ago).await;
    world.clock.advance(MS);
    let mut claimed = flood.claim().await;
    claimed.extend(flood.claim().await);
    assert!(
        claimed
            .iter()
            .any(|leased| leased.lease.destination.as_str() == elsewhere)
    );

    // A fleet of workers crashes with a million leased jobs.
    flood.lease_all(world.now()).await;
    let due = flood.keys.shard(flood.shard).due("example.com");
    assert_eq!(flood.count("ZCARD", &due).await, 0);
    flood.ask(&["CONFIG", "RESETSTAT"]).await;
    flood.ask(&["SLOWLOG", "RESET"]).await;
    world.clock.advance(MS);
    let lapsed_before = world.events_of(EventKind::JobLapsed).await.len();
    let with_a_million_lapsed = flood.time_of_a_claim().await;
    assert!(
        with_a_million_lapsed < most,
        "{with_few:?} with {FEW} due, {with_a_million_lapsed:?} with {MILLION} lapsed"
    );
    let lapsed = world.events_of(EventKind::JobLapsed).await.len() - lapsed_before;
    assert_eq!(
        lapsed,
        CLAIMS * BATCH,
        "each claim makes as many lapsed jobs due as it may lease"
    );
    assert_eq!(
        flood.count("ZCARD", &due).await,
        0,
        "each claim leased as many jobs as it made due"
    );
    flood.check_no_script_was_slow().await;
}

#[tokio::test]
async fn tens_of_thousands_of_due_destinations_are_visited_in_bounded_portions() {
    const DESTINATIONS: usize = 20_000;
    let flood = Flood::new().await;
    let world = &flood.world;
    let names = (0..)
        .map(|n| format!("host{n}.example"))
        .filter(|name| Destination::named(name.as_str()).shard(4) == flood.shard);
    flood.watch_for_slow_scripts().await;
    world
        .post_bounces(
            names
                .take(DESTINATIONS)
                .map(|name| bounce(&format!("jo@{name}"), "m1", FULL)),
        )
        .await;
    world.clock.advance(3 * DAY);
    let mut visited = HashSet::new();
    for _ in 0..DESTINATIONS / BATCH {
        let jobs = flood.claim().await;
        assert_eq!(jobs.len(), BATCH);
        visited.extend(jobs.into_iter().map(|leased| leased.lease.destination));
    }
    assert_eq!(visited.len(), DESTINATIONS, "each was visited once");
    assert_eq!(flood.claim().await.len(), 0);
    flood.check_no_script_was_slow().await;
}

#[tokio::test]
async fn remembered_deliveries_are_removed_after_more_than_a_week_without_blocking_redis() {
    const OLD: usize = 200_000;
    const FILL: &str =
        "for n = 1, tonumber(ARGV[1]) do redis.call('HSET', KEYS[1], 'default/user' .. n, n) end";
    let flood = Flood::new().await;
    let world = &flood.world;
    let week = world.now().ms() / (7 * DAY.as_millis() as i64);
    let keys = flood.keys.shard(flood.shard);
    for week in [week - 3, week - 2, week - 1, week] {
        flood
            .ask(&["EVAL", FILL, "1", &keys.delivered(week), &OLD.to_string()])
            .await;
    }
    flood.watch_for_slow_scripts().await;
    assert_eq!(world.store.trim_delivered().await.unwrap(), 2, "two weeks");
    assert_eq!(world.store.trim_delivered().await.unwrap(), 0);
    for (week, left) in [(week - 2, 0), (week - 1, OLD), (week, OLD)] {
        assert_eq!(flood.count("HLEN", &keys.delivered(week)).await, left);
    }
    assert_eq!(flood.number(&["SLOWLOG", "LEN"]).await, 0);
}
