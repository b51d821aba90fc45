//! The name of a token in events and in the log.

use super::*;

#[tokio::test]
async fn events_have_the_name_of_the_token_that_caused_them() {
    let world = World::with(Settings {
        max_lapses: 1,
        ..Settings::default()
    })
    .await;
    let http = serve(&world).await;
    let send = async |token: &str, request: RequestBuilder| {
        let answer = request.bearer_auth(token).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
    };
    let hold = "/v1/destinations/example.com/hold";
    let limits = "/v1/destinations/example.com/limits";
    let of_jo = |what: &str| format!("/v1/addresses/{JO}/{what}?account=acme");
    let complaint = json!({"type": "complaint", "account": "beta", "recipient": JO});

    let job = of("acme", "kept@example.com", FULL);
    send("acme", http.post("/v1/bounces").json(&job)).await;
    let gone = of("acme", "gone@example.com", UNKNOWN);
    send("acme", http.post("/v1/bounces").json(&gone)).await;
    send("beta", http.post("/v1/facts").json(&complaint)).await;
    send("acme", http.post(&of_jo("suppress"))).await;
    send("acme", http.post(&of_jo("reinstate"))).await;
    send("ops", http.put(hold).json(&json!({"reason": "r"}))).await;
    send("ops", http.delete(hold)).await;
    send("ops", http.put(limits).json(&json!({"rate": 1}))).await;
    send("ops", http.delete(limits)).await;
    world.clock.advance(2 * DAY);
    assert_eq!(world.claim().await.len(), 1);
    world.clock.advance(LEASE);
    assert_eq!(world.claim().await.len(), 0);
    let release = "/v1/quarantine/kept@example.com/release?account=acme";
    send("acme", http.post(release)).await;

    let events = world.events().await;
    let mut by: Vec<(EventKind, Option<String>)> = events
        .iter()
        .map(|event| (event.kind, event.by.as_deref().map(str::to_owned)))
        .collect();
    by.sort();
    let named = |kind, name: &str| (kind, Some(name.to_owned()));
    let mut expected = vec![
        named(EventKind::JobScheduled, "acme"),
        named(EventKind::MessageDropped, "acme"),
        named(EventKind::AddressRetired, "acme"),
        named(EventKind::AddressSuppressed, "beta"),
        named(EventKind::AddressSuppressed, "acme"),
        named(EventKind::AddressReinstated, "acme"),
        named(EventKind::DestinationHeld, "ops"),
        named(EventKind::DestinationReleased, "ops"),
        named(EventKind::DestinationLimited, "ops"),
        named(EventKind::DestinationLimited, "ops"),
        named(EventKind::JobReinstated, "acme"),
        (EventKind::JobLapsed, None),
        (EventKind::JobQuarantined, None),
    ];
    expected.sort();
    assert_eq!(by, expected);
    let held = world.events_of(EventKind::DestinationHeld).await.remove(0);
    let wire = held.to_wire("0:1-0:0", world.now());
    assert_eq!(wire["by"], "ops", "the API shows the name");
}

#[tokio::test]
async fn the_bounce_of_an_accepted_message_has_the_name_of_the_token_that_reported_it() {
    let world = World::with(Settings {
        confirm: DAY,
        ..Settings::default()
    })
    .await;
    let accepted = || Outcome::Accepted(Reply::parse("250 2.0.0 queued"));
    world.mail.set_script(move |_| accepted());
    let http = serve(&world).await;
    let post = async |token: &str, reply: &str| {
        let mut item = of("acme", JO, reply);
        item["occurred_at"] = json!(world.now());
        let request = http.post("/v1/bounces").bearer_auth(token).json(&item);
        assert_eq!(request.send().await.unwrap().status(), 202);
    };
    post("ops", FULL).await;
    world.clock.advance(2 * DAY);
    assert_eq!(world.work().await, 1);
    post("acme", UNKNOWN).await;
    let events = world.events().await;
    for (kind, by) in [
        (EventKind::JobScheduled, Some("ops")),
        (EventKind::MessageAccepted, None),
        (EventKind::AddressRetired, Some("acme")),
    ] {
        let event = events.iter().find(|event| event.kind == kind);
        assert_eq!(event.unwrap().by.as_deref(), by, "{kind:?}");
    }
}
