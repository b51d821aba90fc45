//! A job that lapses too often in a row may be the reason that its workers crash. It is put into
//! quarantine, and not tried until an operator releases it.

use domain::destination::Destination;
use domain::event::EventKind;
use domain::standing::Standing;
use harness::bounce::{FULL, FULL_FOR_GOOD, MAINTENANCE, bounce};
use harness::http::Http;
use harness::wait::eventually;
use harness::world::{DAY, LEASE, Settings, World, id};
use serde_json::json;
use store::quarantine::Quarantined;

const JO: &str = "jo@example.com";

/// How often in a row a job may lapse.
const LAPSES: u32 = 3;

#[tokio::test]
async fn a_job_that_lapses_too_often_in_a_row_is_quarantined_with_its_messages() {
    let world = world().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    for n in 1..LAPSES {
        lapse(&world).await;
        assert_eq!(
            world.job(JO).await.quarantined_since,
            None,
            "{n} lapses are not too many"
        );
    }
    lapse(&world).await;
    assert_eq!(world.claim().await.len(), 0, "no claim gets the job");
    let job = world.job(JO).await;
    assert_eq!(
        (job.quarantined_since, job.due, job.leased_until),
        (Some(world.now()), None, None)
    );
    assert_eq!(
        (job.job.head.attempt, world.waiting(JO).await),
        (0, vec!["m1".to_owned()])
    );
    assert_eq!(
        world.events_of(EventKind::JobLapsed).await.len(),
        LAPSES as usize
    );
    let quarantined = world.events_of(EventKind::JobQuarantined).await;
    assert_eq!(quarantined.len(), 1);
    assert_eq!(*quarantined[0].job, id(JO).key());

    world.clock.advance(DAY);
    assert_eq!(world.claim().await.len(), 0);
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    assert_eq!(
        world.waiting(JO).await,
        ["m1", "m2"],
        "messages can join the job"
    );
    assert_eq!(world.claim().await.len(), 0);
    assert_eq!(
        world.pace("example.com").await.in_flight,
        0,
        "the job takes no room in the window of its destination"
    );

    let shown = Http::serve(&world)
        .await
        .get_json(&format!("/v1/addresses/{JO}"))
        .await;
    assert_eq!(
        shown["job"]["quarantined_since"],
        json!(job.quarantined_since)
    );
}

#[tokio::test]
async fn a_permanent_bounce_retires_an_address_even_while_its_job_is_in_quarantine() {
    let world = world().await;
    quarantine(&world, JO).await;
    world.post_bounce(bounce(JO, "m2", FULL_FOR_GOOD)).await;
    assert_eq!(world.standing(JO).await, Standing::Unavailable);
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(all_quarantined(&world).await, []);
    assert_eq!(world.final_events().await.len(), 2, "one per message");
    assert!(!world.store.put_back(&id(JO)).await.unwrap());
    assert_eq!(world.pace("example.com").await.in_flight, 0);
}

#[tokio::test]
async fn a_settled_attempt_resets_the_count_of_lapses() {
    let world = world().await;
    world
        .post_and_wait_until_due(bounce(JO, "m1", MAINTENANCE))
        .await;
    for _ in 0..2 {
        for _ in 1..LAPSES {
            lapse(&world).await;
        }
        world
            .attempt_and_settle(world.claim().await, MAINTENANCE)
            .await;
        world.clock.set(world.job(JO).await.due.unwrap());
    }
    assert_eq!(world.events_of(EventKind::JobQuarantined).await, []);
}

#[tokio::test]
async fn an_operator_can_list_quarantined_jobs_oldest_first_and_release_them() {
    let world = world().await;
    let addresses = ["a@example.com", "b@example.com", "c@example.com"];
    let mut since = Vec::new();
    for address in addresses {
        since.push(Quarantined {
            job: id(address),
            since: quarantine(&world, address).await,
            lapses: Some(LAPSES),
        });
    }
    assert_eq!(all_quarantined(&world).await, since);
    let shard = Destination::named("example.com").shard(world.store.shards());
    let pages = [(0, 2), (2, 2), (3, 2), (0, 0)]
        .map(|(skip, most)| world.store.quarantined(shard, skip, most));
    let pages: Vec<_> = futures::future::try_join_all(pages).await.unwrap();
    assert_eq!(
        pages,
        [since[..2].to_vec(), since[2..].to_vec(), vec![], vec![]]
    );

    assert!(world.store.put_back(&id(addresses[1])).await.unwrap());
    assert!(
        !world.store.put_back(&id(addresses[1])).await.unwrap(),
        "the job is no longer in quarantine"
    );
    let job = world.job(addresses[1]).await;
    assert_eq!((job.due, job.quarantined_since), (Some(world.now()), None));
    let reinstated = world.events_of(EventKind::JobReinstated).await;
    assert_eq!(reinstated.len(), 1);
    assert_eq!(*reinstated[0].job, id(addresses[1]).key());
    for _ in 1..LAPSES {
        lapse(&world).await;
    }
    assert_eq!(world.work().await, 1, "its count of lapses starts again");
    assert_eq!(
        all_quarantined(&world).await,
        [since[0].clone(), since[2].clone()]
    );
}

#[tokio::test]
async fn a_job_whose_attempts_panic_is_quarantined_and_its_worker_continues() {
    let world = world().await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    world
        .post_bounce(bounce("sam@example.com", "m1", FULL))
        .await;
    world.mail.panic_for(JO);
    world.clock.advance(2 * DAY);
    let worker = world.start_worker(|_| {});
    eventually("the end of the job", async || {
        let quarantined = world.job(JO).await.quarantined_since;
        (quarantined.is_some() && world.job_if_any("sam@example.com").await.is_none()).then_some(())
    })
    .await;
    worker.stopped().await;
    let tried = world
        .mail
        .tried()
        .into_iter()
        .filter(|tried| tried.recipient == JO);
    assert_eq!(
        tried.count(),
        LAPSES as usize,
        "each attempt lapsed at once: the clock has not moved"
    );
    assert_eq!(world.pace("example.com").await.in_flight, 0);
    assert!(world.store.leased(1).await.unwrap().is_empty());
}

async fn world() -> World {
    World::with(Settings {
        max_lapses: LAPSES,
        ..Settings::default()
    })
    .await
}

/// Claims the only due job like a worker that then crashes, and lets the lease end. The next claim
/// counts the lapse.
async fn lapse(world: &World) {
    assert_eq!(world.claim().await.len(), 1);
    world.clock.advance(LEASE);
}

async fn quarantine(world: &World, address: &str) -> domain::clock::Timestamp {
    world
        .post_and_wait_until_due(bounce(address, "m1", FULL))
        .await;
    for _ in 0..LAPSES {
        lapse(world).await;
    }
    assert_eq!(world.claim().await.len(), 0);
    world.job(address).await.quarantined_since.unwrap()
}

async fn all_quarantined(world: &World) -> Vec<Quarantined> {
    let shard = Destination::named("example.com").shard(world.store.shards());
    world.store.quarantined(shard, 0, 100).await.unwrap()
}
