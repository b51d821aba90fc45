//! The list of jobs in quarantine.

use super::*;

/// More jobs than one call looks at.
const MANY: usize = 600;

/// Puts the jobs of these bounces into quarantine, all at the same instant.
async fn quarantine(world: &World, bounces: Vec<Value>) {
    world.post_bounces(bounces.into_iter()).await;
    world.clock.advance(2 * DAY);
    while !world.claim().await.is_empty() {}
    world.clock.advance(LEASE);
    while !world.claim().await.is_empty() {}
    world.clock.advance(SECOND);
}

#[tokio::test]
async fn the_list_of_quarantined_jobs_has_only_those_of_the_tokens_accounts() {
    let world = World::with(Settings {
        max_lapses: 1,
        ..Settings::default()
    })
    .await;
    // Few jobs for each destination, so that all of them can be claimed at once.
    let many = (0..MANY).map(|n| of("beta", &format!("u{n}@d{}.example", n % 60), FULL));
    quarantine(&world, vec![of("acme", "a1@d0.example", FULL)]).await;
    let own = ["a2@d0.example", "a3@d1.example"].map(|own| of("acme", own, FULL));
    quarantine(&world, many.chain(own).collect()).await;
    quarantine(&world, vec![of("zeta", "z@d0.example", FULL)]).await;
    quarantine(&world, vec![of("acme", "a4@d2.example", FULL)]).await;
    let http = serve(&world).await;
    for (token, limit, expected) in [
        ("acme", 1, 4),
        ("acme", 3, 4),
        ("acme", 500, 4),
        ("beta", 100, MANY),
        ("ops", 500, MANY + 5),
    ] {
        let mut listed = Vec::new();
        let mut next = Some(String::new());
        while let Some(after) = next {
            let path = format!("/v1/quarantine?limit={limit}{after}");
            let page = http.get(&path).bearer_auth(token).send().await.unwrap();
            let page = json(page).await;
            let jobs = page["jobs"].as_array().unwrap();
            assert!(jobs.len() <= limit);
            listed.extend(jobs.iter().map(|job| job["job"].to_string()));
            next = page["next"].as_str().map(|place| {
                let names_another = token == "acme" && place.contains("beta");
                assert!(!names_another, "the place names another account: {place}");
                format!("&after={place}")
            });
        }
        assert_eq!(listed.len(), expected, "{token}, {limit} at a time");
        let of_acme = listed.iter().filter(|job| job.starts_with("\"acme/"));
        assert_eq!(of_acme.count(), if token == "beta" { 0 } else { 4 });
        listed.sort();
        listed.dedup();
        assert_eq!(listed.len(), expected, "no job is listed twice");
    }
    let release = "/v1/quarantine/z@d0.example/release?account=zeta";
    let release = http.post(release).bearer_auth("acme").send().await;
    problem(release.unwrap(), 403).await;
    let report = world.store.address(&job_id("zeta", "z@d0.example")).await;
    let job = report.unwrap().job.unwrap();
    assert!(job.quarantined_since.is_some(), "it stays in quarantine");
}
