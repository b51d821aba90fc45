//! The report of an address shows what its job waits for. What it shows is the real reason why no
//! worker has claimed the job yet.

use std::time::Duration;

use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::outcome::Outcome;
use domain::pace::{Breaker, Pace, PaceLimits};
use domain::reply::Reply;
use harness::bounce::{FULL, MAINTENANCE, OK, bounce};
use harness::http::Http;
use harness::process;
use harness::world::{DAY, HOUR, LEASE, SECOND, Settings, World, id};
use serde_json::{Value, json};
use store::workers::WorkerId;

const DESTINATION: &str = "one.example";

/// How long a breaker is open the first time.
const OPEN: Duration = Duration::from_secs(20);

/// A world with `count` due jobs of [`DESTINATION`], a worker that is alive, and a scheduler to
/// ask.
async fn world_with_due_jobs(count: usize) -> (World, Http) {
    let breaker = Breaker {
        failures: 1,
        open: OPEN,
        ..Settings::default().pace.breaker
    };
    let world = World::with(Settings {
        pace: Pace {
            breaker,
            ..Settings::default().pace
        },
        max_lapses: 1,
        ..Settings::default()
    });
    let world = world.await;
    world.post_due_jobs(DESTINATION, count).await;
    world
        .store
        .heartbeat(WorkerId::unique(), HOUR)
        .await
        .unwrap();
    let http = Http::serve(&world).await;
    (world, http)
}

async fn wait_of(http: &Http, address: &str) -> Value {
    http.get_json(&format!("/v1/addresses/{address}")).await["job"]["waits_for"].clone()
}

/// What a job of [`DESTINATION`] waits for that is not leased.
async fn wait_of_unleased(world: &World, http: &Http, count: usize) -> Value {
    for address in (0..count).map(|n| format!("user{n}@{DESTINATION}")) {
        if world
            .job_if_any(&address)
            .await
            .is_some_and(|job| job.due.is_some())
        {
            return wait_of(http, &address).await;
        }
    }
    panic!("no job waits");
}

/// What an unleased job waits for, and then how many jobs a claim leases.
async fn wait_and_claim(world: &World, http: &Http, count: usize) -> (Value, usize) {
    (
        wait_of_unleased(world, http, count).await,
        claimed(world).await,
    )
}

/// Claims the jobs of [`DESTINATION`] that may be claimed. Returns how many.
async fn claimed(world: &World) -> usize {
    world.claim_near(DESTINATION, 9).await.jobs.len()
}

fn without_end(what: &str) -> Value {
    json!({"what": what, "until": null})
}

fn until(what: &str, until: Timestamp) -> Value {
    json!({"what": what, "until": until})
}

#[tokio::test]
async fn a_job_waits_until_it_is_due_then_for_a_worker_and_then_for_its_attempt() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let address = format!("jo@{DESTINATION}");
    let due = world
        .post_and_wait_until_due(bounce(&address, "m1", FULL))
        .await;
    assert_eq!(wait_of(&http, &address).await, without_end("worker"));
    world.clock.set(Timestamp::from_ms(due.ms() - 1));
    assert_eq!(
        (wait_of(&http, &address).await, claimed(&world).await),
        (until("due", due), 0)
    );
    world.clock.set(due);
    let worker = WorkerId::unique();
    world.store.heartbeat(worker, HOUR).await.unwrap();
    assert_eq!(
        (wait_of(&http, &address).await, claimed(&world).await),
        (without_end("turn"), 1)
    );
    assert_eq!(
        wait_of(&http, &address).await,
        until("attempt", due.plus(LEASE))
    );
}

#[tokio::test]
async fn a_job_waits_for_the_hold_of_its_destination_if_the_hold_ends_after_its_due_time() {
    let (world, http) = world_with_due_jobs(1).await;
    let (address, destination) = (
        format!("user0@{DESTINATION}"),
        Destination::named(DESTINATION),
    );
    let end = world.now().plus(HOUR);
    for hold in [None, Some(end)] {
        world
            .store
            .hold(&destination, hold, "they asked")
            .await
            .unwrap();
        let wanted = json!({"what": "hold", "until": hold, "reason": "they asked"});
        assert_eq!(
            (wait_of(&http, &address).await, claimed(&world).await),
            (wanted, 0)
        );
    }
    world.clock.set(end);
    assert_eq!(
        wait_of(&http, &address).await,
        without_end("turn"),
        "the hold is over"
    );
    world
        .attempt_and_settle(world.claim_near(DESTINATION, 1).await.jobs, FULL)
        .await;
    let due = world.job(&address).await.due.unwrap();
    world
        .store
        .hold(&destination, Some(due), "they asked")
        .await
        .unwrap();
    assert_eq!(wait_of(&http, &address).await, until("due", due));
    world
        .store
        .hold(&destination, Some(due.plus(SECOND)), "they asked")
        .await
        .unwrap();
    assert_eq!(
        wait_of(&http, &address).await["until"],
        json!(due.plus(SECOND))
    );
}

#[tokio::test]
async fn a_job_waits_for_the_breaker_of_its_destination_and_then_for_the_probe() {
    let (world, http) = world_with_due_jobs(3).await;
    world
        .attempt_and_settle(world.claim_near(DESTINATION, 1).await.jobs, MAINTENANCE)
        .await;
    let waits = async || {
        let waits_for = wait_of(&http, &format!("user0@{DESTINATION}")).await;
        if waits_for["what"] == "due" {
            wait_of(&http, &format!("user1@{DESTINATION}")).await
        } else {
            waits_for
        }
    };
    let end = world.now().plus(OPEN);
    assert_eq!(
        (waits().await, claimed(&world).await),
        (until("breaker", end), 0)
    );
    world.clock.set(end);
    assert_eq!(
        waits().await,
        without_end("turn"),
        "this job may be the probe"
    );
    let probe = world.claim_near(DESTINATION, 9).await.jobs;
    assert_eq!(probe.len(), 1);
    let mut shown = Vec::new();
    for n in 0..3 {
        shown.push(wait_of(&http, &format!("user{n}@{DESTINATION}")).await);
    }
    assert!(
        shown.contains(&without_end("breaker"))
            && shown.contains(&until("attempt", end.plus(LEASE))),
        "{shown:?}"
    );
    assert_eq!(claimed(&world).await, 0);
}

#[tokio::test]
async fn a_job_waits_for_room_in_the_window_and_for_the_rate_of_its_destination() {
    let (world, http) = world_with_due_jobs(5).await;
    let destination = Destination::named(DESTINATION);
    let limits = PaceLimits {
        rate: 0.0,
        burst: 1.0,
        window: 2,
    };
    world
        .store
        .override_limits(&destination, Some(limits))
        .await
        .unwrap();
    let jobs = world.claim_near(DESTINATION, 9).await.jobs;
    assert_eq!(jobs.len(), 2);
    assert_eq!(
        wait_and_claim(&world, &http, 5).await,
        (without_end("window"), 0)
    );
    world.attempt_and_settle(jobs, OK).await;
    let limits = PaceLimits {
        rate: 0.5,
        window: 9,
        ..limits
    };
    world
        .store
        .override_limits(&destination, Some(limits))
        .await
        .unwrap();
    assert_eq!(
        wait_and_claim(&world, &http, 5).await,
        (without_end("turn"), 1)
    );
    let next = world.now().plus(2 * SECOND);
    assert_eq!(
        wait_and_claim(&world, &http, 5).await,
        (until("rate", next), 0)
    );
    world.clock.set(Timestamp::from_ms(next.ms() - 1));
    assert_eq!(
        wait_and_claim(&world, &http, 5).await,
        (until("rate", next), 0)
    );
    world.clock.set(next);
    assert_eq!(
        wait_and_claim(&world, &http, 5).await,
        (without_end("turn"), 1)
    );
}

#[tokio::test]
async fn a_job_waits_for_an_operator_in_quarantine_or_for_a_bounce_after_a_relay_accepted_it() {
    let (world, http) = world_with_due_jobs(1).await;
    assert_eq!(claimed(&world).await, 1);
    world.clock.advance(LEASE);
    assert_eq!(claimed(&world).await, 0, "the job has lapsed too often");
    assert_eq!(
        wait_of(&http, &format!("user0@{DESTINATION}")).await,
        without_end("operator")
    );

    let world = World::with(Settings {
        confirm: DAY,
        ..Settings::default()
    })
    .await;
    let http = Http::serve(&world).await;
    let address = format!("jo@{DESTINATION}");
    world
        .post_and_wait_until_due(bounce(&address, "m1", FULL))
        .await;
    world
        .mail
        .set_script(|_| Outcome::Accepted(Reply::parse(OK)));
    assert_eq!(world.work().await, 1);
    let due = world.job(&address).await.due.unwrap();
    assert_eq!(wait_of(&http, &address).await, until("silence", due));
}

#[tokio::test]
async fn the_command_prints_what_a_job_waits_for_and_where() {
    let (world, http) = world_with_due_jobs(1).await;
    let job = id(&format!("user0@{DESTINATION}")).key();
    let shown = async || {
        let output = process::run(&["addresses", "show", &job, "--api", http.base()]).await;
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix("waits for    ").map(str::to_owned))
    };
    assert_eq!(
        shown().await.as_deref(),
        Some("its turn: a worker takes it soon")
    );
    world
        .store
        .hold(&Destination::named(DESTINATION), None, "they asked")
        .await
        .unwrap();
    let wanted = "one.example, which is held until it is released: they asked";
    assert_eq!(shown().await.as_deref(), Some(wanted));
    world
        .store
        .unhold(&Destination::named(DESTINATION))
        .await
        .unwrap();
    assert_eq!(claimed(&world).await, 1);
    assert_eq!(shown().await, None, "the attempt is already shown");
}

#[tokio::test]
async fn classify_refuses_an_empty_reply_as_a_usage_error() {
    let output = process::run(&["classify", ""]).await;
    let shown = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        shown.contains("it has neither a code, nor a status, nor a word")
            && output.stdout.is_empty(),
        "{shown}"
    );
}
