//! What an operator sees is so at that moment: no instant that is over, no list that leaves out
//! what is under way, and no readiness that hides a missing part.

use std::ffi::OsString;

use domain::event::EventKind;
use domain::pace::{Breaker, Pace};
use harness::bounce::{FULL, MAINTENANCE, bounce};
use harness::http::{Http, client, problem};
use harness::port::free_port;
use harness::process::Redeliver;
use harness::redis;
use harness::wait::eventually;
use harness::world::{HOUR, LEASE, MS, SECOND, Settings, World};
use serde_json::{Value, json};
use store::workers::WorkerId;

const JO: &str = "jo@example.com";

async fn listed(http: &Http, query: &str) -> Value {
    http.get_json(&format!("/v1/destinations{query}")).await
}

fn names(page: &Value) -> Vec<String> {
    let all = page["destinations"].as_array().unwrap().iter();
    all.map(|one| one["destination"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn destinations_that_only_have_attempts_under_way_are_listed_and_counted() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let bounces = (0..40).map(|n| bounce(&format!("jo@d{n:02}.example"), "m1", FULL));
    world.post_bounces(bounces).await;
    world.clock.advance(27 * HOUR);
    let leased = world.claim().await;
    assert_eq!(leased.len(), 40);
    // A destination whose next visit is noted is no longer on the agenda after it.
    world.claim().await;

    let page = listed(&http, "?limit=100").await;
    assert_eq!(names(&page).len(), 40, "{page}");
    for one in page["destinations"].as_array().unwrap() {
        assert_eq!((&one["in_flight"], &one["waiting"]), (&json!(1), &json!(0)));
    }
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = listed(&http, &format!("?limit=7{after}")).await;
        all.extend(names(&page));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 40, "each page continues the one before");

    let figures = world.store.read_fleet(HOUR).await.unwrap();
    assert_eq!((figures.in_flight, figures.destinations), (40, 40));
    for leased in &leased {
        assert!(world.release(&leased.lease).await);
    }
    assert_eq!(names(&listed(&http, "?limit=100").await).len(), 40);
}

#[tokio::test]
async fn a_breaker_is_never_open_until_an_instant_that_is_over() {
    let breaker = Breaker {
        failures: 1,
        open: 20 * SECOND,
        ..Settings::default().pace.breaker
    };
    let world = World::with(Settings {
        pace: Pace {
            breaker,
            ..Settings::default().pace
        },
        ..Settings::default()
    })
    .await;
    let http = Http::serve(&world).await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.mail.reply_with(MAINTENANCE);
    world.work().await;
    let shown = async || {
        let one = http.get_json("/v1/destinations/example.com").await;
        let page = listed(&http, "").await;
        assert_eq!(one["breaker"], page["destinations"][0]["breaker"]);
        one["breaker"].clone()
    };
    let until = world.now().plus(20 * SECOND);
    assert_eq!(
        shown().await,
        json!({"state": "open", "until": until, "times": 1})
    );
    world.clock.advance(20 * SECOND);
    assert_eq!(
        shown().await,
        json!({"state": "open", "until": null, "times": 1})
    );
}

#[tokio::test]
async fn a_job_is_never_leased_until_an_instant_that_is_over() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.claim_one().await;
    let until = world.now().plus(LEASE);
    let job = async || http.get_json(&format!("/v1/addresses/{JO}")).await["job"].clone();
    let leased = job().await;
    assert_eq!(
        (&leased["leased_until"], &leased["due"]),
        (&json!(until), &Value::Null)
    );
    world.clock.advance(LEASE + MS);
    let lapsed = job().await;
    assert_eq!(
        (&lapsed["leased_until"], &lapsed["due"]),
        (&Value::Null, &json!(until))
    );
    assert_eq!(lapsed["waits_for"]["what"], "worker");
}

#[tokio::test]
async fn readiness_shows_its_parts() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let parts = http.get_json("/readyz").await;
    for (part, value) in [
        ("ready", json!(true)),
        ("redis", json!("answers")),
        ("intake", json!("open")),
        ("workers", json!(0)),
    ] {
        assert_eq!(parts[part], value, "{part}");
    }
    assert!(parts["note"].as_str().unwrap().contains("no worker"));
    let worker = WorkerId::unique();
    world.store.heartbeat(worker, HOUR).await.unwrap();
    let parts = http.get_json("/readyz").await;
    assert_eq!(
        (&parts["workers"], &parts["note"]),
        (&json!(1), &Value::Null)
    );
    world.store.leave(worker).await.unwrap();
    assert_eq!(http.get_json("/readyz").await["workers"], 0);
}

/// A scheduler in a process of its own, and its address.
async fn scheduler(environment: &[(&str, OsString)], settings: &str) -> (Redeliver, String) {
    let world = World::new().await;
    let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
    let base = format!("http://127.0.0.1:{}", free_port());
    let listen = base.trim_start_matches("http://");
    let scheduler = Redeliver::start_in(
        environment,
        &["scheduler"],
        &format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[scheduler]\n\
             listen = \"{listen}\"\n{settings}\n"
        ),
    );
    eventually("the scheduler", async || {
        let ready = client().get(format!("{base}/readyz")).send().await.ok()?;
        (ready.status() == 200).then_some(())
    })
    .await;
    (scheduler, base)
}

#[tokio::test]
async fn a_stopping_scheduler_is_not_ready_before_it_closes_its_socket() {
    let drain = [("REDELIVER_SCHEDULER__DRAIN", OsString::from("1s"))];
    let (scheduler, base) = scheduler(&drain, "").await;
    let stopping = tokio::spawn(scheduler.terminate());
    let ready = async || client().get(format!("{base}/readyz")).send().await;
    let refused = eventually("it to be not ready", async || {
        let answer = ready().await.ok()?;
        (answer.status() == 503).then_some(answer)
    })
    .await;
    let parts = problem(refused, 503).await;
    assert_eq!(
        (&parts["ready"], &parts["intake"]),
        (&json!(false), &json!("draining"))
    );
    // A client that a load balancer still sends here gets its answer.
    let posted = client()
        .post(format!("{base}/v1/bounces"))
        .json(&bounce(JO, "m1", FULL))
        .send()
        .await
        .unwrap();
    assert_eq!(posted.status(), 202);
    eventually("the socket to close", async || ready().await.err()).await;
    assert!(stopping.await.unwrap().success());
}

#[tokio::test]
async fn a_scheduler_without_a_writable_folder_for_temporary_files_says_so_at_its_start() {
    let missing = "/nowhere/at/all";
    let (broken, _base) = scheduler(&[("TMPDIR", OsString::from(missing))], "").await;
    let log = broken.log();
    let line = log.lines().find(|line| line.contains("temporary file"));
    assert!(line.is_some_and(|line| line.contains(missing)), "{log}");
    let (good, _base) = scheduler(&[], "").await;
    assert!(!good.log().contains("temporary file"));
}

#[tokio::test]
async fn a_scheduler_whose_policy_differs_from_that_of_the_fleet_says_so() {
    let world = World::new().await;
    let config = |listen: u16, policy: &str| {
        let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
        format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[scheduler]\n\
             listen = \"127.0.0.1:{listen}\"\n[worker]\nheartbeat = \"200ms\"\n{policy}\n\
             [[route]]\nname = \"default\"\nsender = \"command\"\nprogram = \"/bin/true\"\n\
             arguments = [\"{{recipient}}\"]\n"
        )
    };
    const DIFFERS: &str = "has another policy";
    let worker = Redeliver::start("worker", &config(free_port(), ""));
    eventually("the worker", async || {
        let workers = world.store.live_workers(HOUR).await.unwrap();
        (workers == 1).then_some(())
    })
    .await;
    let same = Redeliver::start("scheduler", &config(free_port(), ""));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.toml");
    std::fs::write(&file, "[defaults]\nhold = \"16m\"\n").unwrap();
    let policy = format!("[policy]\nfile = \"{}\"", file.display());
    let other = Redeliver::start("scheduler", &config(free_port(), &policy));
    eventually("the other scheduler to notice", async || {
        other.log().contains(DIFFERS).then_some(())
    })
    .await;
    eventually("the other two to notice", async || {
        let noticed = same.log().contains(DIFFERS) && worker.log().contains(DIFFERS);
        noticed.then_some(())
    })
    .await;
    assert!(other.log().contains("worker"), "{}", other.log());
    let event = eventually("the event", async || {
        world.events_of(EventKind::FleetDiverged).await.pop()
    })
    .await;
    let reason = event.reason.unwrap();
    assert!(reason.starts_with("policies differ: "), "{reason}");

    // Another process has written the store anew, with another number of shards.
    let meta = format!("{}:meta", world.prefix);
    redis::ask(&redis::url(), &["HSET", &meta, "shards", "9"]).await;
    eventually("both schedulers to notice", async || {
        let noticed = |one: &Redeliver| one.log().contains("another number of shards");
        (noticed(&same) && noticed(&other)).then_some(())
    })
    .await;
}
