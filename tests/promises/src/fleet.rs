//! Workers divide the shards among themselves, and take over the shards of a worker that died. Only
//! the order of visits depends on this division: any worker may process any shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::clock::Timestamp;
use domain::destination::Destination;
use harness::bounce::{FULL, OK, bounce};
use harness::proxy::RedisProxy;
use harness::redis;
use harness::wait::eventually;
use harness::world::{DAY, HOUR, MS, RunningWorker, World};
use store::workers::WorkerId;
use worker::rendezvous::{Turn, round};

/// How long Redis may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A worker that only its heartbeats wake, and a counter of its claims.
struct Sleeper {
    worker: RunningWorker,
    id: WorkerId,
    claims: Arc<AtomicUsize>,
    _proxy: RedisProxy,
}

impl Sleeper {
    async fn start(world: &World) -> Self {
        let before = world.store.workers().await.unwrap();
        let proxy = RedisProxy::before(&redis::url());
        let claims = Arc::new(AtomicUsize::new(0));
        let counted = claims.clone();
        proxy.choose_faults(move |name| {
            counted.fetch_add(usize::from(name == "claim"), Ordering::Relaxed);
            None
        });
        let store = world.store_at(&proxy.url(), PATIENCE).await;
        let worker = world.start_worker_on(&store, |settings| {
            settings.poll_max = HOUR;
            settings.heartbeat = 20 * MS;
        });
        let id = eventually("its first heartbeat", async || {
            let workers = world.store.workers().await.unwrap();
            workers
                .into_iter()
                .map(|(id, _)| id)
                .find(|id| before.iter().all(|(known, _)| known != id))
        })
        .await;
        let sleeper = Self {
            worker,
            id,
            claims,
            _proxy: proxy,
        };
        eventually("its first round", async || {
            (sleeper.claims() >= usize::from(world.store.shards())).then_some(())
        })
        .await;
        sleeper
    }

    fn claims(&self) -> usize {
        self.claims.load(Ordering::Relaxed)
    }
}

/// Waits until each of these workers has sent three heartbeats. By then it has read an answer that
/// names all the others.
async fn know_each_other(world: &World, ids: &[WorkerId]) {
    for _ in 0..3 {
        let before = world.store.workers().await.unwrap();
        eventually("heartbeats", async || {
            let now = world.store.workers().await.unwrap();
            let later = |id| {
                now.iter().any(|beat| {
                    beat.0 == id && before.iter().all(|old| old.0 != id || old.1 < beat.1)
                })
            };
            ids.iter().all(|id| later(*id)).then_some(())
        })
        .await;
    }
}

fn own_shards(world: &World, me: WorkerId, live: &[WorkerId]) -> Vec<u16> {
    let turns = round(me, live, world.store.shards()).into_iter();
    turns
        .filter(|turn| turn.is_own)
        .map(|Turn { shard, .. }| shard)
        .collect()
}

#[tokio::test]
async fn the_remaining_worker_takes_over_the_shards_of_a_killed_worker() {
    let world = World::new().await;
    let sleepers = [Sleeper::start(&world).await, Sleeper::start(&world).await];
    let ids = [sleepers[0].id, sleepers[1].id];
    know_each_other(&world, &ids).await;
    // The worker that has the shard of this domain is killed.
    let shard = Destination::named("example.com").shard(world.store.shards());
    let [first, second] = sleepers;
    let (killed, left) = if own_shards(&world, ids[0], &ids).contains(&shard) {
        (first, second)
    } else {
        (second, first)
    };
    let orphans = own_shards(&world, killed.id, &ids);
    let before = (killed.claims(), left.claims());

    world.mail.reply_with(OK);
    for n in 0..40 {
        world
            .post_bounce(bounce(&format!("user{n}@example.com"), "m1", FULL))
            .await;
    }
    world.clock.advance(2 * DAY);
    know_each_other(&world, &ids).await;
    assert_eq!(
        (killed.claims(), left.claims()),
        before,
        "no worker visits its shards for an hour"
    );
    killed.worker.kill();
    eventually("all deliveries", async || {
        (world.final_events().await.len() == 40).then_some(())
    })
    .await;
    assert_eq!(killed.claims(), before.0);
    assert!(left.claims() >= before.1 + orphans.len());
    let live = world.store.workers().await.unwrap();
    assert_eq!(
        live.into_iter().map(|(id, _)| id).collect::<Vec<_>>(),
        [left.id]
    );
    left.worker.stopped().await;
}

#[tokio::test]
async fn the_shards_of_a_worker_that_stops_cleanly_are_taken_over_at_once() {
    let world = World::new().await;
    let [first, second] = [Sleeper::start(&world).await, Sleeper::start(&world).await];
    let ids = [first.id, second.id];
    know_each_other(&world, &ids).await;
    let (orphans, before) = (own_shards(&world, first.id, &ids), second.claims());
    first.worker.stopped().await;
    let live = world.store.workers().await.unwrap();
    assert_eq!(
        live.into_iter().map(|(id, _)| id).collect::<Vec<_>>(),
        [second.id]
    );
    eventually("a visit to each of its shards", async || {
        (second.claims() == before + orphans.len()).then_some(())
    })
    .await;
    know_each_other(&world, &[second.id]).await;
    assert_eq!(
        second.claims(),
        before + orphans.len(),
        "the worker did not visit its own shards for that"
    );
    second.worker.stopped().await;
    assert_eq!(world.store.workers().await.unwrap(), []);
}

#[tokio::test]
async fn a_new_job_that_is_due_first_is_found_without_waiting_for_the_next_planned_visit() {
    let world = World::new().await;
    world
        .post_bounce(bounce("late@example.com", "m1", FULL))
        .await;
    let worker = world.start_worker(|settings| settings.poll_max = 20 * MS);
    world.mail.reply_with(OK);
    let mut posted = bounce("early@example.com", "m1", FULL);
    let ago = Timestamp::from_ms(world.now().ms() - (2 * DAY).as_millis() as i64);
    posted["occurred_at"] = ago.to_string().into();
    world.post_bounce(posted).await;
    eventually("the delivery", async || {
        (world.final_events().await.len() == 1).then_some(())
    })
    .await;
    assert!(world.job_if_any("late@example.com").await.is_some());
    worker.stopped().await;
}
