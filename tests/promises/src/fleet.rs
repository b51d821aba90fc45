//! Workers share out the shards among themselves and take over those of one that died. Nothing but
//! who asks first depends on it.

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

/// A worker that nothing but a heartbeat wakes, and what it asks Redis for.
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
        proxy.chance(move |name| {
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

/// Waits until each of these has heard of all others: its third heartbeat is answered after it has
/// read the first.
async fn have_met(world: &World, ids: &[WorkerId]) {
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

fn own(world: &World, me: WorkerId, live: &[WorkerId]) -> Vec<u16> {
    let turns = round(me, live, world.store.shards()).into_iter();
    turns
        .filter(|turn| turn.own)
        .map(|Turn { shard, .. }| shard)
        .collect()
}

#[tokio::test]
async fn the_shards_of_a_killed_worker_and_no_others_are_visited_by_who_is_left() {
    let world = World::new().await;
    let sleepers = [Sleeper::start(&world).await, Sleeper::start(&world).await];
    let ids = [sleepers[0].id, sleepers[1].id];
    have_met(&world, &ids).await;
    // Whoever has the shard of this domain is killed.
    let shard = Destination::named("example.com").shard(world.store.shards());
    let [first, second] = sleepers;
    let (killed, left) = if own(&world, ids[0], &ids).contains(&shard) {
        (first, second)
    } else {
        (second, first)
    };
    let orphans = own(&world, killed.id, &ids);
    let before = (killed.claims(), left.claims());

    world.mail.says(OK);
    for n in 0..40 {
        world
            .take_in(bounce(&format!("user{n}@example.com"), "m1", FULL))
            .await;
    }
    world.clock.advance(2 * DAY);
    have_met(&world, &ids).await;
    assert_eq!(
        (killed.claims(), left.claims()),
        before,
        "nobody looks for an hour"
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
async fn who_stops_in_order_is_gone_at_once_and_who_is_left_visits_only_what_was_its() {
    let world = World::new().await;
    let [first, second] = [Sleeper::start(&world).await, Sleeper::start(&world).await];
    let ids = [first.id, second.id];
    have_met(&world, &ids).await;
    let (orphans, before) = (own(&world, first.id, &ids), second.claims());
    first.worker.stopped().await;
    let live = world.store.workers().await.unwrap();
    assert_eq!(
        live.into_iter().map(|(id, _)| id).collect::<Vec<_>>(),
        [second.id]
    );
    eventually("a visit to each", async || {
        (second.claims() == before + orphans.len()).then_some(())
    })
    .await;
    have_met(&world, &[second.id]).await;
    assert_eq!(
        second.claims(),
        before + orphans.len(),
        "its own shards were not visited for that"
    );
    second.worker.stopped().await;
    assert_eq!(world.store.workers().await.unwrap(), []);
}

#[tokio::test]
async fn a_new_job_that_is_due_before_all_others_is_found_long_before_the_next_visit_that_was_named()
 {
    let world = World::new().await;
    world.take_in(bounce("late@example.com", "m1", FULL)).await;
    let worker = world.start_worker(|settings| settings.poll_max = 20 * MS);
    world.mail.says(OK);
    let mut posted = bounce("early@example.com", "m1", FULL);
    let ago = Timestamp::from_ms(world.now().ms() - (2 * DAY).as_millis() as i64);
    posted["occurred_at"] = ago.to_string().into();
    world.take_in(posted).await;
    eventually("the delivery", async || {
        (world.final_events().await.len() == 1).then_some(())
    })
    .await;
    assert!(world.job_if_any("late@example.com").await.is_some());
    worker.stopped().await;
}
