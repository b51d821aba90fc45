//! Clocks may be changed while processes run, and a process may be suspended while time passes. No
//! mail is lost, no work waits for as long as a clock was wrong, and only attempts in flight are
//! repeated.

use domain::clock::{Clock, Timestamp};
use harness::faketime::FakeClock;
use harness::port::free_port;
use harness::process::Redeliver;
use harness::redis;
use harness::wait::eventually;
use harness::world::{DAY, SECOND, World};
use system::clock::SystemClock;

mod frozen;
mod set_back;
mod stepped;

/// The occurrences of a task that have been claimed so far.
async fn occurrences(world: &World, task: &str) -> Vec<Timestamp> {
    let pattern = format!("{}:*:upkeep:{task}:*", world.prefix);
    let keys = redis::ask(&redis::url(), &["KEYS", &pattern]).await;
    let instants = keys
        .lines()
        .filter_map(|line| line.rsplit_once(':')?.1.parse().ok());
    instants.map(Timestamp::from_ms).collect()
}

#[tokio::test]
async fn upkeep_continues_after_a_clock_that_was_a_day_ahead_is_corrected() {
    let world = World::new().await;
    let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
    let clock = FakeClock::new("+1d");
    let _scheduler = Redeliver::start_in(
        &clock.environment(),
        &["scheduler"],
        &format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[scheduler]\n\
             listen = \"127.0.0.1:{}\"\n\
             [upkeep]\nreinstate = \"* * * * * *\"\n[log]\nfilter = \"error\"\n",
            free_port()
        ),
    );
    let near = |at: Timestamp, now: Timestamp| at.since(now).max(now.since(at)) < DAY / 24;
    let ahead = || SystemClock.now().plus(DAY);
    let runs = async |now: Timestamp| {
        occurrences(&world, "reinstate")
            .await
            .into_iter()
            .find(|at| near(*at, now))
    };
    eventually("a run by the wrong clock", async || runs(ahead()).await).await;
    clock.set("+0");
    eventually("a run by the right clock", async || {
        runs(SystemClock.now()).await
    })
    .await;
    clock.set("+1d");
    let later = ahead().plus(SECOND);
    eventually("a run after a step ahead", async || {
        occurrences(&world, "reinstate")
            .await
            .into_iter()
            .find(|at| *at > later)
    })
    .await;
}

#[tokio::test]
async fn an_upkeep_run_claimed_too_early_by_a_fast_clock_can_run_again_at_its_real_time() {
    let world = World::new().await;
    let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
    let _scheduler = Redeliver::start(
        "scheduler",
        &format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[scheduler]\n\
             listen = \"127.0.0.1:{}\"\n\
             [upkeep]\nreinstate = \"* * * * * *\"\n[log]\nfilter = \"error\"\n",
            free_port()
        ),
    );
    let claimed = eventually("a run", async || {
        occurrences(&world, "reinstate").await.pop()
    })
    .await;
    let key = format!("{prefix}:{{0}}:upkeep:reinstate:{}", claimed.ms());
    let left = redis::ask(&url, &["PTTL", &key]).await;
    let left_ms: u64 = left.trim_start_matches(':').trim().parse().unwrap();
    assert!(
        left_ms <= 60_000,
        "other schedulers could not claim the run for {left_ms} ms"
    );
}
