//! An address that is not active keeps the evidence: the last reply, its status, how we learned of
//! it, the host, the attempt, the time and the policy row. Every process can read it, and it is
//! small.

use std::sync::Arc;

use domain::event::EventKind;
use domain::evidence::EVIDENCE_BYTES_MAX;
use harness::bounce::{FULL, FULL_FOR_GOOD, UNKNOWN, bounce};
use harness::http::Http;
use harness::smtp::{Act, SmtpPeer};
use harness::world::{DAY, Settings, World, id};
use senders::settings::smtp::SmtpSettings;
use senders::smtp::SmtpSender;
use serde_json::{Value, json};
use store::keys::Keys;

const JO: &str = "jo@example.com";

/// The evidence that a scheduler shows which has just started.
async fn shown(world: &World) -> Value {
    let http = Http::serve(world).await;
    http.get_json(&format!("/v1/addresses/{JO}")).await["evidence"].clone()
}

#[tokio::test]
async fn an_attempt_that_retires_an_address_leaves_its_reply_and_its_host() {
    let mut world = World::new().await;
    let act = Act::Say("550 5.1.1 No such user here");
    let relay = SmtpPeer::agreeable_except("RCPT", act).await;
    let settings = SmtpSettings::new("127.0.0.1", relay.address.port());
    world.set_sender(Arc::new(SmtpSender::new(settings)));
    let mut posted = bounce(JO, "m1", FULL);
    posted["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
    world.post_and_wait_until_due(posted).await;
    assert_eq!(world.work().await, 1);
    let evidence = shown(&world).await;
    let reply = evidence["reply"].as_str().unwrap();
    assert!(reply.contains("550 5.1.1 No such user here"), "{reply}");
    for (field, value) in [
        ("attempt", json!(1)),
        ("source", json!("attempt")),
        ("status", json!("5.1.1")),
        ("remote_mta", json!("127.0.0.1")),
    ] {
        assert_eq!(evidence[field], value, "{field}");
    }
    assert!(evidence["at"].is_string() && evidence["policy"].is_string());

    let event = world.events_of(EventKind::AddressRetired).await.remove(0);
    assert_eq!(event.attempt, Some(1));
    assert_eq!(event.source.as_deref(), Some("attempt"));
    assert_eq!(event.remote_mta.as_deref(), Some("127.0.0.1"));
    assert_eq!(event.reply.as_deref(), Some(reply));
    assert_eq!(event.policy.as_deref(), evidence["policy"].as_str());
}

#[tokio::test]
async fn a_report_that_retires_an_address_leaves_what_it_contains() {
    let world = World::with(Settings {
        confirm: DAY,
        ..Settings::default()
    })
    .await;
    let mut posted = bounce(JO, "m1", UNKNOWN);
    posted["remote_mta"] = json!("mx.example.com");
    posted["occurred_at"] = json!("2026-11-20T08:00:00.000Z");
    // Its own attempt has failed for good, and then a relay reports the same of ours.
    world.post_bounce(posted.clone()).await;
    let expected = |attempt: u32, at: &str| {
        json!({
            "attempt": attempt,
            "at": at,
            "source": "api",
            "status": "5.1.1",
            "remote_mta": "mx.example.com",
            "reply": UNKNOWN,
            "policy": "mailbox-unknown",
            "note": null,
        })
    };
    let found = shown(&world).await;
    let mut wanted = expected(0, "2026-11-20T08:00:00.000Z");
    wanted["policy"] = found["policy"].clone();
    assert_eq!(found, wanted);
    let dropped = world.events_of(EventKind::MessageDropped).await.remove(0);
    let retired = world.events_of(EventKind::AddressRetired).await.remove(0);
    for event in [&dropped, &retired] {
        assert_eq!(event.source.as_deref(), Some("api"));
        assert_eq!(event.remote_mta.as_deref(), Some("mx.example.com"));
    }

    world.reinstate(JO).await;
    assert_eq!(shown(&world).await, Value::Null, "it is active again");
    world.mail.set_script(|_| {
        domain::outcome::Outcome::Accepted(domain::reply::Reply::parse("250 2.0.0 queued"))
    });
    world.post_and_wait_until_due(bounce(JO, "m2", FULL)).await;
    world.work().await;
    posted["message_id"] = json!("m2");
    let at = world.now().to_string();
    posted["occurred_at"] = json!(at);
    world.post_bounce(posted).await;
    let found = shown(&world).await;
    let mut wanted = expected(1, &at);
    wanted["policy"] = found["policy"].clone();
    assert_eq!(found, wanted);
    let retired = world.events_of(EventKind::AddressRetired).await.remove(1);
    assert_eq!(retired.source.as_deref(), Some("api"));
    assert_eq!(retired.remote_mta.as_deref(), Some("mx.example.com"));
}

#[tokio::test]
async fn a_complaint_and_an_operator_leave_how_they_came() {
    let world = World::new().await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    let at = world.now().to_string();
    let fact = json!({"recipient": JO, "type": "complaint", "occurred_at": at});
    world.report_fact(fact).await;
    let evidence = |attempt: Value, at: &str, source: &str| {
        json!({
            "attempt": attempt, "at": at, "source": source,
            "status": null, "remote_mta": null, "reply": null, "policy": null,
            "note": null,
        })
    };
    assert_eq!(shown(&world).await, evidence(json!(0), &at, "api"));
    let event = world
        .events_of(EventKind::AddressSuppressed)
        .await
        .remove(0);
    assert_eq!(
        (event.attempt, event.source.as_deref()),
        (Some(0), Some("api"))
    );

    let http = Http::serve(&world).await;
    http.post("/v1/addresses/sam@example.com/suppress")
        .send()
        .await
        .unwrap();
    let sam = http.get_json("/v1/addresses/sam@example.com").await;
    let now = world.now().to_string();
    assert_eq!(sam["evidence"], evidence(Value::Null, &now, "operator"));
}

#[tokio::test]
async fn the_evidence_is_small_however_long_the_reply_is_and_ends_with_the_standing() {
    let world = World::new().await;
    let long = format!("{FULL_FOR_GOOD} {}", "\u{1}\"é🦀\\".repeat(50_000));
    let mut posted = bounce(JO, "m1", &long);
    posted["remote_mta"] = json!("mx.example.com");
    world.post_bounce(posted).await;
    let keys = Keys::new(&world.prefix, world.store.shards());
    let shard = domain::destination::Destination::named("example.com").shard(world.store.shards());
    let stored = |words: &'static str| {
        let (key, field) = (keys.shard(shard).standing().to_owned(), id(JO).key());
        async move { harness::redis::ask(&harness::redis::url(), &[words, &key, &field]).await }
    };
    let record = world.standing_record(JO).await.unwrap();
    let evidence = record.evidence.expect("there is evidence");
    assert!(evidence.reply.starts_with("552 5.2.2 Mailbox full"));
    assert_eq!(evidence.reply.chars().count(), 160);
    let bytes = stored("HSTRLEN").await;
    let bytes: usize = format!("{bytes:?}")
        .chars()
        .filter(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap();
    assert!(bytes < EVIDENCE_BYTES_MAX + 200, "{bytes}");

    world.clock.advance(400 * DAY);
    world.store.reinstate().await.unwrap();
    let record = world.standing_record(JO).await.unwrap();
    assert_eq!((record.strikes, record.evidence), (1, None));
}
