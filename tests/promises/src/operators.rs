//! Operators can inspect a destination, hold it, release it and limit it, and release jobs from
//! quarantine. They do so over HTTP or with commands.

use domain::event::EventKind;
use domain::pace::{DestinationRule, PaceLimits};
use harness::bounce::{FULL, bounce};
use harness::http::{Http, json, problem};
use harness::port::free_port;
use harness::process::{self, Redeliver};
use harness::redis;
use harness::wait::eventually;
use harness::world::{HOUR, LEASE, Settings, World, id};
use serde_json::{Value, json};
use store::destination_controls::PaceReport;

const DESTINATION: &str = "one.example";

#[tokio::test]
async fn a_new_destination_shows_the_default_state() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let wanted = json!({
        "asked": DESTINATION, "destination": DESTINATION, "waiting": 0, "next_due": null,
        "in_flight": 0, "window": 20,
        "limits": {"rate": 0.0, "burst": 10.0, "window": 200, "from": "default"}, "tokens": null,
        "breaker": {"state": "closed"}, "hold": null, "delivered": null,
    });
    assert_eq!(http.get_json("/v1/destinations/one.example").await, wanted);
    assert_eq!(
        http.get_json("/v1/destinations/One.Example").await["destination"],
        DESTINATION
    );
}

#[tokio::test]
async fn a_destination_shows_its_waiting_and_running_jobs() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    world.post_due_jobs(DESTINATION, 30).await;
    assert_eq!(world.claim_near(DESTINATION, 5).await.jobs.len(), 5);
    let report = http.get_json("/v1/destinations/one.example").await;
    assert_eq!(
        (&report["waiting"], &report["in_flight"]),
        (&json!(25), &json!(5))
    );
    let mut due = Vec::new();
    for n in 0..30 {
        due.extend(world.job(&format!("user{n}@{DESTINATION}")).await.due);
    }
    assert_eq!(report["next_due"], json!(due.iter().min()));
}

#[tokio::test]
async fn a_command_about_a_domain_applies_to_the_destination_of_that_domain() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let put = http
        .put("/v1/destinations/GMail.com/hold")
        .json(&json!({"reason": "they asked"}));
    let report = json(put.send().await.unwrap()).await;
    assert_eq!(
        (&report["asked"], &report["destination"]),
        (&json!("GMail.com"), &json!("google"))
    );
    assert!(world.pace("google").await.hold.is_some());
    assert_eq!(
        http.get_json("/v1/destinations/google").await["hold"]["reason"],
        "they asked"
    );

    // A host name without a dot is not the provider of that name. It is found in either spelling
    // once it has jobs.
    world.post_bounce(bounce("jo@relay", "m1", FULL)).await;
    for name in ["relay", "relay."] {
        let report = http.get_json(&format!("/v1/destinations/{name}")).await;
        assert_eq!(
            (&report["destination"], &report["waiting"]),
            (&json!("relay."), &json!(1)),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_misspelt_provider_is_not_found_and_nothing_is_held() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let put = http
        .put("/v1/destinations/gogle/hold")
        .json(&json!({"reason": "they asked"}));
    let why = problem(put.send().await.unwrap(), 404).await;
    assert!(
        why["detail"].as_str().unwrap().contains("gmail.com"),
        "{why}"
    );
    let put = http
        .put("/v1/destinations/a..b/hold")
        .json(&json!({"reason": "they asked"}));
    assert_eq!(
        problem(put.send().await.unwrap(), 400).await["field"],
        "name"
    );
    assert_eq!(world.events().await, []);
}

#[tokio::test]
async fn a_hold_stops_claims_and_a_release_allows_them_at_once() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    world.post_due_jobs(DESTINATION, 3).await;
    let until = world.now().plus(HOUR);
    let hold = json!({"reason": "maintenance", "until": until});
    let report = json(
        http.put("/v1/destinations/one.example/hold")
            .json(&hold)
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(
        report["hold"],
        json!({"reason": "maintenance", "until": until})
    );
    assert_eq!(world.claim_near(DESTINATION, 9).await.jobs.len(), 0);

    let report = json(
        http.delete("/v1/destinations/one.example/hold")
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(report["hold"], Value::Null);
    assert_eq!(world.claim_near(DESTINATION, 9).await.jobs.len(), 3);
    problem(
        http.delete("/v1/destinations/one.example/hold")
            .send()
            .await
            .unwrap(),
        404,
    )
    .await;
    assert_eq!(
        world.events_of(EventKind::DestinationReleased).await.len(),
        1
    );

    json(
        http.put("/v1/destinations/one.example/hold")
            .json(&hold)
            .send()
            .await
            .unwrap(),
    )
    .await;
    world.clock.advance(HOUR);
    let report = http.get_json("/v1/destinations/one.example").await;
    assert_eq!(
        report["hold"],
        Value::Null,
        "a hold that is over is not shown"
    );
}

#[tokio::test]
async fn limits_set_by_an_operator_override_the_configuration_until_they_are_removed() {
    let rules = vec![DestinationRule {
        name: DESTINATION.to_owned(),
        limits: PaceLimits {
            rate: 0.0,
            burst: 3.0,
            window: 7,
        },
    }];
    let mut world = World::with(Settings {
        rules,
        ..Settings::default()
    })
    .await;
    world.post_due_jobs(DESTINATION, 40).await;
    let limits = async |world: &World| {
        let report = Http::serve(world)
            .await
            .get_json("/v1/destinations/one.example")
            .await;
        (
            report["limits"].clone(),
            report["window"].clone(),
            report["tokens"].clone(),
        )
    };
    let configured = json!({"rate": 0.0, "burst": 3.0, "window": 7, "from": "configuration"});
    assert_eq!(
        limits(&world).await,
        (configured.clone(), json!(7), Value::Null)
    );

    let http = Http::serve(&world).await;
    let put = http
        .put("/v1/destinations/one.example/limits")
        .json(&json!({"rate": 0.5, "window": 9}));
    json(put.send().await.unwrap()).await;
    let given = json!({"rate": 0.5, "burst": 3.0, "window": 9, "from": "override"});
    world.restart().await;
    assert_eq!(
        limits(&world).await,
        (given, json!(9), json!(3.0)),
        "the limit survives a restart"
    );
    assert_eq!(world.claim_near(DESTINATION, 9).await.jobs.len(), 3);
    world.clock.advance(LEASE / 60);
    assert_eq!(limits(&world).await.2, json!(0.5), "a second later");

    json(
        http.delete("/v1/destinations/one.example/limits")
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(limits(&world).await, (configured, json!(7), Value::Null));
    assert_eq!(
        world.claim_near(DESTINATION, 9).await.jobs.len(),
        4,
        "seven at once, and three of them are in flight"
    );
    problem(
        http.delete("/v1/destinations/one.example/limits")
            .send()
            .await
            .unwrap(),
        404,
    )
    .await;
}

#[tokio::test]
async fn a_wrong_operator_command_changes_nothing_and_its_error_names_what_is_allowed() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let long = "x".repeat(501);
    let past = world.now().to_string();
    for (what, body, field) in [
        ("hold", json!({}), Some("reason")),
        ("hold", json!({"reason": null}), Some("reason")),
        ("hold", json!({"reason": " "}), Some("reason")),
        ("hold", json!({"reason": "two\nlines"}), Some("reason")),
        ("hold", json!({"reason": long}), Some("reason")),
        ("hold", json!({"reason": 3}), Some("reason")),
        (
            "hold",
            json!({"reason": "r", "until": "tomorrow"}),
            Some("until"),
        ),
        ("hold", json!({"reason": "r", "until": past}), Some("until")),
        (
            "hold",
            json!({"reason": "r", "untill": null, "for": "2h"}),
            Some("for"),
        ),
        ("hold", json!(["r"]), None),
        ("limits", json!({}), None),
        ("limits", json!({"rate": null}), None),
        ("limits", json!({"rate": -1}), Some("rate")),
        ("limits", json!({"rate": 1_000_001}), Some("rate")),
        ("limits", json!({"rate": "2"}), Some("rate")),
        ("limits", json!({"rate": 2, "burst": 0.5}), Some("burst")),
        ("limits", json!({"rate": 2, "window": 0}), Some("window")),
        ("limits", json!({"window": 1.5}), Some("window")),
        (
            "limits",
            json!({"window": 4_294_967_297_u64}),
            Some("window"),
        ),
        ("limits", json!({"speed": 2}), Some("speed")),
    ] {
        let put = http
            .put(&format!("/v1/destinations/{DESTINATION}/{what}"))
            .json(&body);
        let why = problem(put.send().await.unwrap(), 400).await;
        assert_eq!(
            why.get("field").and_then(Value::as_str),
            field,
            "{body}: {why}"
        );
        assert!(why["detail"].as_str().unwrap().len() > 20, "{why}");
    }
    let garbled = http
        .put("/v1/destinations/one.example/hold")
        .header("content-type", "application/json")
        .body("{");
    problem(garbled.send().await.unwrap(), 400).await;
    assert_eq!(world.pace(DESTINATION).await, PaceReport::default());
    assert_eq!(world.events().await, []);
}

#[tokio::test]
async fn quarantine_is_listed_oldest_first_in_pages_across_all_shards() {
    let (world, addresses) = world_with_quarantine().await;
    let http = Http::serve(&world).await;
    let all = http.get_json("/v1/quarantine").await;
    assert_eq!(all["next"], Value::Null);
    let ids: Vec<&str> = all["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["job"].as_str().unwrap())
        .collect();
    let mut wanted: Vec<String> = addresses.iter().map(|address| id(address).key()).collect();
    // Jobs that came at the same instant are in the order of their ids.
    wanted[1..].sort_unstable();
    assert_eq!(ids, wanted);
    assert_eq!(all["jobs"][0]["destination"], "google");
    let since = world.job(&addresses[0]).await.quarantined_since;
    assert_eq!(
        (&all["jobs"][0]["since"], &all["jobs"][0]["lapses"]),
        (&json!(since), &json!(1))
    );

    let jobs = all["jobs"].as_array().unwrap();
    for limit in [1, 2, 4, 500] {
        let mut paged = Vec::new();
        let mut after = String::new();
        loop {
            let page = http
                .get_json(&format!("/v1/quarantine?limit={limit}{after}"))
                .await;
            paged.extend(page["jobs"].as_array().unwrap().clone());
            let Some(place) = page["next"].as_str() else {
                break;
            };
            after = format!("&after={place}");
        }
        assert_eq!(paged, *jobs, "{limit} at a time");
    }
    let place = http.get_json("/v1/quarantine?limit=3").await["next"]
        .as_str()
        .unwrap()
        .to_owned();
    for released in &addresses[..3] {
        assert!(world.store.put_back(&id(released)).await.unwrap());
    }
    let rest = http
        .get_json(&format!("/v1/quarantine?after={place}"))
        .await;
    assert_eq!(
        rest["jobs"].as_array().unwrap()[..],
        jobs[3..],
        "the last listed job may be gone"
    );
    for (query, field) in [
        ("?limit=0", "limit"),
        ("?limit=501", "limit"),
        ("?limit=x", "limit"),
        ("?after=x", "after"),
    ] {
        let answer = http
            .get(&format!("/v1/quarantine{query}"))
            .send()
            .await
            .unwrap();
        assert_eq!(problem(answer, 400).await["field"], field, "{query}");
    }
}

#[tokio::test]
async fn a_job_that_is_released_from_quarantine_is_due_now() {
    let (world, addresses) = world_with_quarantine().await;
    let http = Http::serve(&world).await;
    let path = format!("/v1/quarantine/{}/release", addresses[0]);
    let report = json(http.post(&path).send().await.unwrap()).await;
    let wanted =
        json!({"job": id(&addresses[0]).key(), "destination": "google", "due": world.now()});
    assert_eq!(report, wanted);
    assert_eq!(world.claim_one().await.job.id, id(&addresses[0]));
    problem(http.post(&path).send().await.unwrap(), 404).await;
    let of_another = format!("/v1/quarantine/{}/release?account=acme", addresses[1]);
    problem(http.post(&of_another).send().await.unwrap(), 404).await;
    let no_address = http
        .post("/v1/quarantine/nobody/release")
        .send()
        .await
        .unwrap();
    assert_eq!(problem(no_address, 400).await["field"], "address");
}

#[tokio::test]
async fn the_operator_commands_work_on_a_running_scheduler() {
    let (world, addresses) = world_with_quarantine().await;
    let (scheduler, api) = start_scheduler(&world).await;
    let report = succeeds(&[
        "destinations",
        "hold",
        "gmail.com",
        "--reason",
        "they asked",
        "--for",
        "2h",
        "--api",
        &api,
    ])
    .await;
    assert!(
        report.contains("google (asked for: gmail.com)") && report.contains(": they asked"),
        "{report}"
    );
    let shown = succeeds(&["destinations", "show", "google", "--json", "--api", &api]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["hold"]["reason"], &shown["waiting"]),
        (&json!("they asked"), &json!(0))
    );
    assert!(shown["hold"]["until"].is_string());
    let report = succeeds(&["destinations", "release", "google", "--api", &api]).await;
    assert!(report.contains("hold         none"), "{report}");

    let report = succeeds(&[
        "destinations",
        "limit",
        "google",
        "--rate",
        "0.5",
        "--window",
        "4",
        "--api",
        &api,
    ])
    .await;
    assert!(
        report
            .contains("0.5/s, 10 saved up at most, 10.0 of them now, 4 at once at most (override)"),
        "{report}"
    );
    let report = succeeds(&[
        "destinations",
        "limit",
        "google",
        "--default",
        "--api",
        &api,
    ])
    .await;
    assert!(
        report.contains("no rate, 200 at once at most (default)"),
        "{report}"
    );

    let listed = succeeds(&["quarantine", "list", "--limit", "1", "--api", &api]).await;
    assert!(
        listed.contains(&id(&addresses[0]).key()) && listed.contains("--after '"),
        "{listed}"
    );
    let report = succeeds(&[
        "quarantine",
        "release",
        &id(&addresses[0]).key(),
        "--api",
        &api,
    ])
    .await;
    assert_eq!(
        report,
        format!("{} is due now at google\n", id(&addresses[0]).key())
    );
    assert_eq!(world.job(&addresses[0]).await.quarantined_since, None);
    assert!(scheduler.terminate().await.success());
}

#[tokio::test]
async fn the_error_of_a_failed_command_explains_what_to_do() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let api = http.base();
    for (arguments, wanted) in [
        (
            &["destinations", "show", "google", "--api", &nowhere] as &[&str],
            "give its URL with --api or REDELIVER_API",
        ),
        (
            &["destinations", "show", "gogle", "--api", api],
            "use the name that the job of an address shows",
        ),
        (
            &["destinations", "release", "google", "--api", api],
            "google is not held",
        ),
        (
            &[
                "destinations",
                "hold",
                "google",
                "--reason",
                "",
                "--api",
                api,
            ],
            "reason: must be text on one line",
        ),
        (
            &[
                "destinations",
                "hold",
                "google",
                "--reason",
                "r",
                "--until",
                "noon",
                "--api",
                api,
            ],
            "until: must be an RFC",
        ),
        (
            &[
                "destinations",
                "limit",
                "google",
                "--burst",
                "0",
                "--api",
                api,
            ],
            "burst: must be a number from 1",
        ),
        (
            &["destinations", "limit", "google", "--api", api],
            "--default",
        ),
        (
            &["quarantine", "release", "nobody", "--api", api],
            "neither a job (like default/jo@example.com) nor an address",
        ),
        (
            &["quarantine", "release", "jo@example.com", "--api", api],
            "no job in quarantine",
        ),
        (
            &["quarantine", "list", "--api", "localhost:8025"],
            "write it like http://127.0.0.1:8025",
        ),
    ] {
        let output = process::run(arguments).await;
        let report = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && report.contains(wanted),
            "{arguments:?}: {report}"
        );
    }
}

/// Runs a command that must succeed. Returns what it prints.
async fn succeeds(arguments: &[&str]) -> String {
    let output = process::run(arguments).await;
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Starts a scheduler on the store of `world`, in a process of its own. Returns its URL.
async fn start_scheduler(world: &World) -> (Redeliver, String) {
    let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
    let listen = format!("127.0.0.1:{}", free_port());
    let scheduler = Redeliver::start(
        "scheduler",
        &format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[scheduler]\n\
             listen = \"{listen}\"\n\
             [log]\nfilter = \"error\"\n"
        ),
    );
    let api = format!("http://{listen}");
    eventually("the scheduler", async || {
        reqwest::get(format!("{api}/readyz"))
            .await
            .ok()
            .filter(|ready| ready.status() == 200)
    })
    .await;
    (scheduler, api)
}

/// A world with jobs in quarantine on several shards, and their addresses. One job came first, and
/// five others came together.
async fn world_with_quarantine() -> (World, Vec<String>) {
    let world = World::with(Settings {
        max_lapses: 1,
        ..Settings::default()
    })
    .await;
    let first = "jo@gmail.com".to_owned();
    let others = (0..5).map(|n| format!("user{n}@host{}.example", n % 2));
    world
        .post_and_wait_until_due(bounce(&first, "m1", FULL))
        .await;
    lapse_all(&world).await;
    let mut addresses = vec![first];
    for address in others {
        world.post_bounce(bounce(&address, "m1", FULL)).await;
        addresses.push(address);
    }
    world.clock.advance(27 * HOUR);
    lapse_all(&world).await;
    assert_eq!(world.claim().await.len(), 0);
    (world, addresses)
}

/// Claims all due jobs like a worker that then crashes, and lets their leases end.
async fn lapse_all(world: &World) {
    assert!(!world.claim().await.is_empty());
    world.clock.advance(LEASE);
    assert_eq!(world.claim().await.len(), 0);
}
