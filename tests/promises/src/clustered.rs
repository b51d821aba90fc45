//! Upkeep and operators get the same results in a Redis Cluster as on one server, though the shards
//! are on several masters.

use domain::destination::Destination;
use domain::event::EventKind;
use domain::pace::{DestinationRule, PaceLimits};
use harness::bounce::{FULL, bounce};
use harness::cluster;
use harness::http::{Http, json};
use harness::world::{Deployment, HOUR, LEASE, Settings, World, id};
use scheduler::upkeep::Task;
use scheduler::upkeep::repair::Repair;
use serde_json::{Value, json};
use store::keys::Keys;
use store::repair::Repaired;

async fn world(settings: Settings) -> World {
    World::with(Settings {
        redis: Deployment::Cluster,
        ..settings
    })
    .await
}

/// Returns one domain for each shard.
fn domains(world: &World) -> Vec<String> {
    let shards = world.store.shards();
    let of_shard = |shard| {
        let mut names = (0..).map(|n| format!("host{n}.example"));
        names
            .find(|name| Destination::named(name.as_str()).shard(shards) == shard)
            .expect("one of infinitely many names is in the shard")
    };
    (0..shards).map(of_shard).collect()
}

/// Returns the Redis key with this name in the shard of a domain.
fn key(world: &World, domain: &str, name: &str) -> String {
    let shards = world.store.shards();
    let shard = Destination::named(domain).shard(shards);
    format!(
        "{}{name}",
        Keys::new(&world.prefix, shards).shard(shard).prefix
    )
}

#[tokio::test]
async fn errors_in_the_data_of_any_master_are_found_and_repaired() {
    let world = world(Settings::default()).await;
    let domains = domains(&world);
    for domain in &domains {
        for name in ["leased", "lost", "due"] {
            world
                .post_bounce(bounce(&format!("{name}@{domain}"), "m1", FULL))
                .await;
        }
    }
    world.clock.advance(27 * HOUR);
    for domain in &domains {
        let due = key(&world, domain, &format!("due:{domain}"));
        let hide = ["lost", "due"].map(|name| id(&format!("{name}@{domain}")).key());
        Deployment::Cluster
            .run_command(&["ZREM", &due, &hide[0], &hide[1]])
            .await;
        let claimed = world.claim_near(domain, 9).await.jobs;
        assert_eq!(claimed.len(), 1);
        Deployment::Cluster
            .run_command(&["ZADD", &due, "1", &hide[1]])
            .await;
        // Now one job is in no set, one lease has lost its entry, and one destination is missing
        // from the agenda, so that no claim would find it.
        for gone in ["leases", "agenda"] {
            Deployment::Cluster
                .run_command(&["DEL", &key(&world, domain, gone)])
                .await;
        }
    }
    assert!(cluster::masters_with(&world.prefix) > 1);
    assert!(Repair.run_once(&world.store).await.unwrap() > 0);
    for shard in 0..world.store.shards() {
        assert_eq!(
            world.store.repair(shard).await.unwrap(),
            Repaired::default(),
            "a second repair finds nothing"
        );
    }
    assert_eq!(
        world.events_of(EventKind::JobRecovered).await.len(),
        2 * domains.len()
    );
    for domain in &domains {
        assert_eq!(world.pace(domain).await.in_flight, 0, "{domain}");
        assert_eq!(world.claim_near(domain, 9).await.jobs.len(), 3, "{domain}");
    }
    assert_eq!(Repair.run_once(&world.store).await.unwrap(), 0);
}

#[tokio::test]
async fn limits_from_the_configuration_reach_the_destinations_of_all_masters() {
    let world = world(Settings::default()).await;
    let domains = domains(&world);
    for domain in &domains {
        world
            .post_bounce(bounce(&format!("jo@{domain}"), "m1", FULL))
            .await;
    }
    let limits = PaceLimits {
        rate: 2.0,
        burst: 1.0,
        window: 3,
    };
    let changed = world.store.clone().with_rules(&[DestinationRule {
        name: "*".to_owned(),
        limits,
    }]);
    assert_eq!(changed.limit().await.unwrap(), domains.len() as u64);
    for domain in &domains {
        assert_eq!(world.pace(domain).await.limits, Some(limits), "{domain}");
    }
}

#[tokio::test]
async fn an_operator_sees_and_moves_quarantined_jobs_on_all_masters() {
    let world = world(Settings {
        max_lapses: 1,
        ..Settings::default()
    })
    .await;
    let (domains, http) = (domains(&world), Http::serve(&world).await);
    for domain in &domains {
        world
            .post_bounce(bounce(&format!("jo@{domain}"), "m1", FULL))
            .await;
    }
    world.clock.advance(27 * HOUR);
    for domain in &domains {
        let path = format!("/v1/destinations/{domain}");
        let put = http
            .put(&format!("{path}/hold"))
            .json(&json!({"reason": "they asked"}));
        assert_eq!(
            json(put.send().await.unwrap()).await["hold"]["reason"],
            "they asked"
        );
        assert_eq!(world.claim_near(domain, 9).await.jobs.len(), 0);
        assert_eq!(
            json(http.delete(&format!("{path}/hold")).send().await.unwrap()).await["hold"],
            Value::Null
        );
        let put = http
            .put(&format!("{path}/limits"))
            .json(&json!({"window": 1}));
        let shown = json(put.send().await.unwrap()).await;
        assert_eq!(
            (&shown["limits"]["from"], &shown["waiting"]),
            (&json!("override"), &json!(1))
        );
    }
    assert_eq!(world.claim().await.len(), domains.len());
    world.clock.advance(LEASE);
    assert_eq!(
        world.claim().await.len(),
        0,
        "these jobs have lapsed too often"
    );
    let (mut listed, mut after) = (Vec::new(), String::new());
    loop {
        let page = http
            .get_json(&format!("/v1/quarantine?limit=1{after}"))
            .await;
        listed.extend(
            page["jobs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["job"].as_str().unwrap().to_owned()),
        );
        let Some(place) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={place}");
    }
    let mut wanted: Vec<String> = domains
        .iter()
        .map(|domain| id(&format!("jo@{domain}")).key())
        .collect();
    wanted.sort_unstable();
    assert_eq!(listed, wanted);
    for domain in &domains {
        let release = http.post(&format!("/v1/quarantine/jo@{domain}/release"));
        assert_eq!(
            json(release.send().await.unwrap()).await["due"],
            json!(world.now())
        );
    }
    assert_eq!(world.claim().await.len(), domains.len());
}
