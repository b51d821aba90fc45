//! An operator can list the destinations with problems and the destinations with work, however many
//! destinations and servers there are.

use domain::destination::Destination;
use domain::pace::{Breaker, Pace};
use harness::bounce::{FULL, MAINTENANCE, OK, bounce};
use harness::http::{Http, problem};
use harness::process;
use harness::world::{Deployment, HOUR, MS, SECOND, Settings, World};
use serde_json::{Value, json};

/// A world whose breakers open at the first failure.
async fn world_on(redis: Deployment) -> World {
    let breaker = Breaker {
        failures: 1,
        open: HOUR,
        ..Settings::default().pace.breaker
    };
    World::with(Settings {
        redis,
        pace: Pace {
            breaker,
            ..Settings::default().pace
        },
        ..Settings::default()
    })
    .await
}

async fn hold(world: &World, name: &str) {
    world
        .store
        .hold(&Destination::named(name), None, "they asked")
        .await
        .unwrap();
    world.clock.advance(MS);
}

fn names(page: &Value) -> Vec<&str> {
    page["destinations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["destination"].as_str().unwrap())
        .collect()
}

async fn listed(http: &Http) -> Vec<String> {
    names(&http.get_json("/v1/destinations").await)
        .into_iter()
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn destinations_with_problems_are_listed_first_and_then_those_that_are_due_next() {
    let world = world_on(Deployment::default()).await;
    let http = Http::serve(&world).await;
    assert_eq!(
        http.get_json("/v1/destinations").await,
        json!({"destinations": [], "next": null})
    );
    world.post_due_jobs("down.example", 3).await;
    world
        .attempt_and_settle(world.claim_near("down.example", 1).await.jobs, MAINTENANCE)
        .await;
    world.clock.advance(MS);
    hold(&world, "idle.example").await;
    world
        .post_bounce(bounce("jo@later.example", "m1", FULL))
        .await;
    world.clock.advance(SECOND);
    world
        .post_bounce(bounce("jo@latest.example", "m1", FULL))
        .await;
    world
        .post_bounce(bounce("jo@held.example", "m1", FULL))
        .await;
    hold(&world, "held.example").await;

    let list = http.get_json("/v1/destinations").await;
    let mut later = ["later.example", "latest.example"];
    if world.job("jo@later.example").await.due > world.job("jo@latest.example").await.due {
        later.reverse();
    }
    assert_eq!(
        names(&list),
        [
            &["down.example", "idle.example", "held.example"],
            &later[..]
        ]
        .concat()
    );
    for one in list["destinations"].as_array().unwrap() {
        let shown = http
            .get_json(&format!(
                "/v1/destinations/{}",
                one["destination"].as_str().unwrap()
            ))
            .await;
        for (field, value) in one.as_object().unwrap() {
            assert_eq!(*value, shown[field], "{field} of {one}");
        }
    }
    assert_eq!(list["destinations"][0]["waiting"], 3);
    assert_eq!(list["destinations"][0]["breaker"]["state"], "open");
}

#[tokio::test]
async fn a_destination_without_problems_is_listed_only_while_it_has_work() {
    let world = world_on(Deployment::default()).await;
    let http = Http::serve(&world).await;
    world.post_due_jobs("down.example", 3).await;
    hold(&world, "idle.example").await;
    world
        .attempt_and_settle(world.claim_near("down.example", 1).await.jobs, MAINTENANCE)
        .await;
    hold(&world, "down.example").await;
    assert_eq!(
        listed(&http).await,
        ["idle.example", "down.example"],
        "listed once, for two reasons"
    );
    world
        .store
        .unhold(&Destination::named("idle.example"))
        .await
        .unwrap();
    world
        .store
        .unhold(&Destination::named("down.example"))
        .await
        .unwrap();
    assert_eq!(listed(&http).await, ["down.example"]);
    assert_eq!(
        trouble(&world).await,
        ["down.example"],
        "its breaker is still open"
    );

    let end = world.now().plus(HOUR / 2);
    world
        .store
        .hold(
            &Destination::named("brief.example"),
            Some(end),
            "they asked",
        )
        .await
        .unwrap();
    assert_eq!(listed(&http).await, ["down.example", "brief.example"]);
    world.clock.advance(HOUR);
    assert_eq!(listed(&http).await, ["down.example"], "the hold is over");
    let probe = world.claim_near("down.example", 9).await.jobs;
    assert_eq!(
        (probe.len(), listed(&http).await),
        (1, vec!["down.example".to_owned()])
    );
    world.attempt_and_settle(probe, OK).await;
    // Upkeep may have removed the hold that is over.
    let troubled = trouble(&world).await;
    assert!(
        !troubled.contains(&"down.example".to_owned()),
        "the breaker is closed: {troubled:?}"
    );
    assert_eq!(listed(&http).await, ["down.example"], "one job still waits");
}

/// The destinations that Redis lists as having problems.
async fn trouble(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    for shard in 0..world.store.shards() {
        let key = format!("{}:{{{shard}}}:trouble", world.prefix);
        let answer =
            harness::redis::ask(&harness::redis::url(), &["ZRANGE", &key, "0", "-1"]).await;
        found.extend(
            answer
                .lines()
                .filter(|line| line.contains(".example"))
                .map(str::to_owned),
        );
    }
    found
}

#[tokio::test]
async fn the_pages_of_the_list_contain_each_destination_once_on_one_server_and_in_a_cluster() {
    for redis in [Deployment::default(), Deployment::Cluster] {
        let world = world_on(redis).await;
        let http = Http::serve(&world).await;
        let due: Vec<String> = (0..20).map(|n| format!("work{n}.example")).collect();
        // Half of the holds end at the same instant, and are over when the list is read. Their
        // destinations are not listed.
        let end = world.now().plus(SECOND);
        for n in 0..30 {
            let until = (n % 2 == 0).then_some(end);
            world
                .store
                .hold(
                    &Destination::named(format!("held{n}.example")),
                    until,
                    "they asked",
                )
                .await
                .unwrap();
        }
        for domain in &due {
            world
                .post_bounce(bounce(&format!("jo@{domain}"), "m1", FULL))
                .await;
        }
        world.clock.advance(2 * SECOND);
        hold(&world, &due[7]).await;
        let all = http.get_json("/v1/destinations?limit=500").await;
        let mut wanted: Vec<String> = (0..30)
            .filter(|n| n % 2 == 1)
            .map(|n| format!("held{n}.example"))
            .collect();
        wanted.sort_unstable();
        wanted.push(due[7].clone());
        assert_eq!(names(&all)[..16], wanted);
        let mut rest: Vec<&str> = names(&all)[16..].to_vec();
        rest.sort_unstable();
        let mut others: Vec<&str> = due
            .iter()
            .map(String::as_str)
            .filter(|name| *name != due[7])
            .collect();
        others.sort_unstable();
        assert_eq!(rest, others);

        for limit in [1, 2, 7, 35] {
            let (mut paged, mut after) = (Vec::new(), String::new());
            loop {
                let page = http
                    .get_json(&format!("/v1/destinations?limit={limit}{after}"))
                    .await;
                paged.extend(page["destinations"].as_array().unwrap().clone());
                assert!(names(&page).len() <= limit);
                let Some(place) = page["next"].as_str() else {
                    break;
                };
                after = format!("&after={place}");
            }
            assert_eq!(json!(paged), all["destinations"], "{limit} at a time");
        }
    }
}

#[tokio::test]
async fn upkeep_removes_holds_that_are_over_from_the_list_and_keeps_the_others() {
    let world = world_on(Deployment::default()).await;
    let named = Destination::named;
    let end = world.now().plus(SECOND);
    world.post_due_jobs("down.example", 1).await;
    world
        .attempt_and_settle(world.claim_near("down.example", 1).await.jobs, MAINTENANCE)
        .await;
    for (name, until) in [
        ("over.example", Some(end)),
        ("down.example", Some(end)),
        ("held.example", None),
    ] {
        world
            .store
            .hold(&named(name), until, "they asked")
            .await
            .unwrap();
    }
    world.clock.advance(2 * SECOND);
    let mut removed = 0;
    for shard in 0..world.store.shards() {
        removed += world.store.trim_trouble(shard).await.unwrap();
        assert_eq!(
            world.store.trim_trouble(shard).await.unwrap(),
            0,
            "nothing is left to remove"
        );
    }
    assert_eq!(removed, 1);

    // A destination that is held again is listed from that time on.
    world.clock.advance(MS);
    hold(&world, "over.example").await;
    let listed = listed(&Http::serve(&world).await).await;
    assert_eq!(listed, ["down.example", "held.example", "over.example"]);

    // When a breaker closes, a hold that is over is removed with it.
    world.clock.advance(2 * HOUR);
    world
        .attempt_and_settle(world.claim_near("down.example", 1).await.jobs, OK)
        .await;
    for shard in 0..world.store.shards() {
        assert_eq!(
            world.store.trim_trouble(shard).await.unwrap(),
            0,
            "the hold was removed before"
        );
    }
}

#[tokio::test]
async fn a_list_is_bounded_and_an_error_names_the_wrong_parameter() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    for (query, field) in [
        ("?limit=0", "limit"),
        ("?limit=501", "limit"),
        ("?after=x", "after"),
        ("?after=work/x/a.example", "after"),
        ("?after=work/1", "after"),
    ] {
        let answer = http
            .get(&format!("/v1/destinations{query}"))
            .send()
            .await
            .unwrap();
        assert_eq!(problem(answer, 400).await["field"], field, "{query}");
    }
}

#[tokio::test]
async fn the_command_lists_destinations_in_columns_and_prints_how_to_continue() {
    let world = world_on(Deployment::default()).await;
    let http = Http::serve(&world).await;
    hold(&world, "one.example").await;
    hold(&world, "two.example").await;
    let run = async |arguments: &[&str]| {
        let output =
            process::run(&[&["destinations", "list", "--api", http.base()], arguments].concat())
                .await;
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let first = run(&["--limit", "1"]).await;
    let lines: Vec<&str> = first.lines().collect();
    assert!(
        lines[0].starts_with("DESTINATION") && lines[1].starts_with("one.example "),
        "{first}"
    );
    assert_eq!(
        lines[0].find("TROUBLE"),
        lines[1].find("held until it is released: they asked"),
        "{first}"
    );
    let place = lines[2]
        .split('\'')
        .nth(1)
        .expect("the name to continue after");
    assert!(
        run(&["--after", place])
            .await
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("two.example ")
    );
    let answer: Value = serde_json::from_str(&run(&["--json"]).await).unwrap();
    assert_eq!(names(&answer), ["one.example", "two.example"]);
}
