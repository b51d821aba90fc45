//! What is counted is what happened: each figure of the fleet, and each count of standings and
//! lapses.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::destination::Destination;
use domain::event::EventKind;
use harness::bounce::{FULL, FULL_FOR_GOOD, UNKNOWN, bounce};
use harness::http::Http;
use harness::proxy::RedisProxy;
use harness::redis;
use harness::wait::{eventually, in_time};
use harness::world::{DAY, Deployment, HOUR, LEASE, Settings, World};
use serde_json::json;
use store::workers::WorkerId;
use telemetry::metrics::fleet::FleetReading;
use telemetry::metrics::text::TextFormat;

use super::of;

const JO: &str = "jo@example.com";

/// How long a live worker may send no heartbeat.
const SILENT_MAX: Duration = Duration::from_secs(30);

pub(super) async fn read(world: &World) -> FleetReading {
    world.store.read_fleet(SILENT_MAX).await.unwrap()
}

pub(super) fn count(world: &World, series: &str) -> f64 {
    let text = world.store.metrics().write(TextFormat::Classic);
    of(&text, series).unwrap_or_default()
}

#[tokio::test]
async fn the_figures_of_the_fleet_are_those_of_its_jobs_and_destinations() {
    let world = World::with(Settings {
        max_lapses: 1,
        ..Settings::default()
    })
    .await;
    let empty = read(&world).await;
    assert!(empty.memory_used.is_some_and(|bytes| bytes > 0));
    let nothing = FleetReading {
        read_at_ms: empty.read_at_ms,
        took_ms: empty.took_ms,
        memory_used: empty.memory_used,
        memory_max: empty.memory_max,
        evicted: empty.evicted,
        ..FleetReading::default()
    };
    assert_eq!(empty, nothing);

    // One job in quarantine, two under way, three due, and one that waits.
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    assert_eq!(world.claim().await.len(), 1);
    world.clock.advance(LEASE);
    assert_eq!(world.claim().await.len(), 0);
    world.post_due_jobs("one.example", 5).await;
    assert_eq!(world.claim_near("one.example", 2).await.jobs.len(), 2);
    world
        .post_bounce(bounce("jo@two.example", "m1", FULL))
        .await;
    let held = Destination::named("three.example");
    world.store.hold(&held, None, "a test").await.unwrap();
    let worker = WorkerId::unique();
    world.store.heartbeat(worker, SILENT_MAX).await.unwrap();

    let reading = read(&world).await;
    let waiting = world.job("jo@two.example").await.due.unwrap();
    assert_eq!(
        (
            reading.jobs,
            reading.due,
            reading.in_flight,
            reading.quarantined
        ),
        (7, 3, 2, 1)
    );
    let delay = waiting.since(world.now());
    let expected = match delay {
        _ if delay <= HOUR => (1, 0, 0, 0),
        _ if delay <= DAY => (0, 1, 0, 0),
        _ if delay <= 7 * DAY => (0, 0, 1, 0),
        _ => (0, 0, 0, 1),
    };
    let FleetReading {
        within_1h,
        within_24h,
        within_7d,
        later,
        ..
    } = reading;
    assert_eq!(
        (within_1h, within_24h, within_7d, later),
        expected,
        "{delay:?}"
    );
    assert_eq!((reading.held, reading.workers), (1, 1));
    // Those with a job that waits or is under way, and the one that is held.
    assert_eq!(reading.destinations, 3);
    let mut window = 0;
    for name in ["one.example", "two.example"] {
        let pace = world.pace(name).await;
        let destination = Destination::named(name);
        window += world.store.window_in_force(&destination, &pace);
    }
    assert_eq!(reading.window, u64::from(window));
    let mut first_due = world.now();
    for n in 0..5 {
        if let Some(due) = world.job(&format!("user{n}@one.example")).await.due {
            first_due = first_due.min(due);
        }
    }
    let oldest = Duration::from_millis(reading.oldest_due_ms);
    assert_eq!(oldest, world.now().since(first_due));
    assert!(oldest > Duration::ZERO);

    world.store.unhold(&held).await.unwrap();
    world.store.leave(worker).await.unwrap();
    world.clock.advance(2 * DAY);
    let reading = read(&world).await;
    assert_eq!(reading.due + reading.in_flight, 6);
    assert_eq!((reading.held, reading.workers), (0, 0));
    assert_eq!(reading.destinations, 2);
}

#[tokio::test]
async fn an_open_breaker_is_a_figure_of_the_fleet_also_in_a_cluster() {
    for redis in [Deployment::default(), Deployment::Cluster] {
        let world = World::with(Settings {
            redis,
            ..Settings::default()
        })
        .await;
        world.post_due_jobs("one.example", 30).await;
        for _ in 0..30 {
            if read(&world).await.open == 1 {
                break;
            }
            let jobs = world.claim_near("one.example", 2).await.jobs;
            world
                .attempt_and_settle(jobs, "421 4.3.2 we are down")
                .await;
        }
        let reading = read(&world).await;
        assert_eq!((reading.open, reading.half_open), (1, 0));
        assert_eq!(reading.destinations, 1, "it has work too, and counts once");
        assert!(reading.memory_used.is_some_and(|bytes| bytes > 0));

        assert_eq!(world.store.kept_fleet().await.unwrap(), None);
        world.store.keep_fleet(&reading, HOUR).await.unwrap();
        assert_eq!(world.store.kept_fleet().await.unwrap(), Some(reading));
    }
}

#[tokio::test]
async fn each_standing_that_changed_is_counted_once_and_so_is_each_lapse() {
    let world = World::new().await;
    // By a bounce, which is repeated; by an attempt; by a fact, which is repeated; by an operator.
    for _ in 0..2 {
        world.post_bounce(bounce(JO, "m1", UNKNOWN)).await;
    }
    world
        .post_and_wait_until_due(bounce("kim@example.com", "m1", FULL))
        .await;
    world.crash(&world.claim_one().await.lease).await;
    assert_eq!(count(&world, "redeliver_lapses_total"), 1.0);
    let leased = world.claim_one().await;
    drop(leased);
    world.clock.advance(LEASE);
    let leased = world.claim().await;
    assert_eq!(count(&world, "redeliver_lapses_total"), 2.0);
    world.attempt_and_settle(leased, FULL_FOR_GOOD).await;
    for _ in 0..2 {
        let complaint = json!({"recipient": "lee@example.com", "type": "complaint"});
        world.report_fact(complaint).await;
    }
    world.reinstate("lee@example.com").await;
    world.clock.advance(30 * DAY);
    world.store.reinstate().await.unwrap();

    let mut expected = BTreeMap::<String, f64>::new();
    for kind in [
        EventKind::AddressRetired,
        EventKind::AddressSuppressed,
        EventKind::AddressReinstated,
    ] {
        let events = world.events_of(kind).await;
        assert!(!events.is_empty(), "{kind:?}");
        for event in events {
            let standing = event
                .standing
                .map_or("active", |standing| standing.as_str());
            *expected.entry(standing.to_owned()).or_default() += 1.0;
        }
    }
    assert!(expected.len() >= 3, "{expected:?}");
    for (standing, changes) in expected {
        let series = format!("redeliver_standing_changes_total{{standing=\"{standing}\"}}");
        assert_eq!(count(&world, &series), changes, "{standing}");
    }
}

#[tokio::test]
async fn a_scrape_is_answered_while_redis_is_not_and_failures_are_counted() {
    let proxy = RedisProxy::before(&redis::url());
    let connections = redis::connections_with(&proxy.url(), Duration::from_secs(1));
    let world = World::on(connections, Settings::default()).await;
    let http = Http::serve(&world).await;
    proxy.close();
    eventually("a failure", async || {
        let scrape = http.get("/metrics").send();
        let text = in_time("the scrape", scrape)
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let failures = of(
            &text,
            "redeliver_redis_failures_total{kind=\"unavailable\"}",
        );
        failures.filter(|failures| *failures > 0.0)
    })
    .await;
}

#[tokio::test]
async fn all_schedulers_report_the_same_figures_of_the_fleet() {
    let world = World::new().await;
    world.post_due_jobs("one.example", 3).await;
    let other = World::sharing(&world).await;
    let https = [Http::serve(&world).await, Http::serve(&other).await];
    let figures = async || {
        let mut all = Vec::new();
        for http in &https {
            let text = http.get("/metrics").send().await.ok()?.text().await.ok()?;
            let read_at = of(&text, "redeliver_fleet_read_timestamp_seconds")?;
            all.push((read_at, of(&text, "redeliver_due_jobs")?));
        }
        (all[0] == all[1]).then(|| all.remove(0))
    };
    let (_, due) = eventually("the same figures", figures).await;
    assert_eq!(due, 3.0);
}
