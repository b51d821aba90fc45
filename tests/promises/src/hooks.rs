//! Mail services report their events by webhook. A request is accepted once if its signature,
//! password or token is valid. Any other request changes nothing.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use config::hooks::{Hook, Service};
use config::model::Config;
use domain::clock::Timestamp;
use domain::event::EventKind;
use domain::standing::Standing;
use futures::future::join_all;
use harness::bounce::{FULL, UNKNOWN, bounce};
use harness::http::{Http, json, problem};
use harness::servers::{Servers, programs};
use harness::wait::eventually;
use harness::world::{DAY, HOUR, Settings, World};
use policy::table::Table;
use reqwest::{RequestBuilder, Response};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use scheduler::intake::webhook::fetch::{Fetch, Https};
use scheduler::serve::Scheduler;
use serde_json::{Value, json};
use typed_toml::secret::Secret;
use url::Url;

use crate::deployments::connections;

mod hang_ups;
mod sns;
mod unreadable;

const JO: &str = "jo@example.com";
const SAM: &str = "sam@example.com";
const KEY: &str = "mailgun-signing-key";

/// A scheduler with this hook configured.
async fn serve(world: &World, service: Service, hook: Hook) -> Http {
    let mut config = Config::embedded();
    config.hooks.set(service, hook);
    Http::serve_with(world, &config).await
}

fn secret(text: &str) -> Hook {
    Hook {
        secret: Some(Secret::new(text)),
        ..Hook::default()
    }
}

fn login() -> Hook {
    Hook {
        user: Some("service".to_owned()),
        ..secret("geheim")
    }
}

async fn send(request: RequestBuilder) -> Response {
    request.send().await.expect("the scheduler answers")
}

/// The body of an answer, which must have status 200.
async fn accepted(response: Response) -> Value {
    assert_eq!(response.status(), 200);
    json(response).await
}

/// A short form of the answers of a hook.
fn answer_names(wire: &Value) -> Vec<&str> {
    wire["answers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| answer["answer"].as_str().unwrap())
        .collect()
}

/// An event from Mailgun, signed at this instant with this token.
fn mailgun(key: &str, signed: Timestamp, token: &str, event: &Value) -> Value {
    let timestamp = (signed.ms() / 1_000).to_string();
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()),
        format!("{timestamp}{token}").as_bytes(),
    );
    let hex: String = tag
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    json!({"signature": {"timestamp": timestamp, "token": token, "signature": hex},
        "event-data": event})
}

/// A request with an event from Mailgun, signed now with this token.
fn mailgun_request(http: &Http, world: &World, token: &str, event: &Value) -> RequestBuilder {
    http.post("/v1/hooks/mailgun")
        .json(&mailgun(KEY, world.now(), token, event))
}

fn deferred(at: Timestamp) -> Value {
    json!({
        "event": "failed", "severity": "temporary", "recipient": JO,
        "timestamp": at.ms() as f64 / 1_000.0,
        "message": {"headers": {"message-id": "m1@example.org"}},
        "delivery-status": {"code": 452, "message": "4.3.1 Insufficient system storage",
            "attempt-no": 7},
    })
}

#[tokio::test]
async fn a_signed_mailgun_event_is_accepted_and_its_last_try_counts_as_attempt_0() {
    let world = World::new().await;
    let http = serve(&world, Service::Mailgun, secret(KEY)).await;
    let tried = Timestamp::from_ms(world.now().ms() - 600_000);
    let request = mailgun_request(&http, &world, "t1", &deferred(tried));
    let wire = accepted(send(request).await).await;
    assert_eq!(answer_names(&wire), ["scheduled"], "{wire}");
    let job = world.job(JO).await;
    assert_eq!(
        (job.job.head.attempt, job.job.messages[0].id.as_str()),
        (0, "<m1@example.org>")
    );
    assert_eq!(
        (job.job.head.history[0].attempt, job.job.head.history[0].at),
        (0, tried)
    );
    let earliest = tried.plus(DAY);
    assert!(
        (earliest..earliest.plus(3 * HOUR)).contains(&job.due.unwrap()),
        "a day after the service's last try"
    );

    world.clock.advance(HOUR);
    let delivered = json!({"event": "delivered", "recipient": JO,
        "timestamp": world.now().ms() as f64 / 1_000.0,
        "message": {"headers": {"message-id": "m1@example.org"}}});
    let request = mailgun_request(&http, &world, "t2", &delivered);
    assert_eq!(
        answer_names(&accepted(send(request).await).await),
        ["closed"],
        "the service delivered the message itself"
    );
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn a_mailgun_event_without_a_valid_and_recent_signature_changes_nothing() {
    let world = World::new().await;
    let http = serve(&world, Service::Mailgun, secret(KEY)).await;
    let (now, event) = (world.now(), deferred(world.now()));
    let before = |span: std::time::Duration| Timestamp::from_ms(now.ms() - span.as_millis() as i64);
    let mut other_token = mailgun(KEY, now, "t1", &event);
    other_token["signature"]["token"] = "t2".into();
    let mut older = mailgun(KEY, before(13 * HOUR), "t1", &event);
    older["signature"]["timestamp"] = (now.ms() / 1_000).to_string().into();
    for body in [
        mailgun("another-key", now, "t1", &event),
        mailgun("", now, "t1", &event),
        mailgun(KEY, before(13 * HOUR), "t1", &event),
        mailgun(KEY, now.plus(HOUR), "t1", &event),
        other_token,
        older,
        json!({"event-data": event}),
        json!({"signature": {"timestamp": 1, "token": {}, "signature": null}, "event-data": event}),
    ] {
        let why = problem(send(http.post("/v1/hooks/mailgun").json(&body)).await, 401).await;
        assert!(!why.to_string().contains(KEY), "{why}");
    }
    assert_eq!(world.events().await, []);
    let counts = http.get_json("/v1/hooks").await;
    assert_eq!(
        (
            &counts["mailgun"]["unverified"],
            &counts["mailgun"]["requests"]
        ),
        (&json!(8), &json!(0))
    );
}

#[tokio::test]
async fn a_mailgun_token_is_valid_for_one_request_even_if_another_has_a_different_event() {
    let world = World::new().await;
    let http = serve(&world, Service::Mailgun, secret(KEY)).await;
    let opened = json!({"event": "opened", "recipient": "sam@example.com"});
    let complained = json!({"event": "complained", "recipient": JO});
    for (event, answers, replayed) in [(&opened, 1, 0), (&opened, 0, 1), (&complained, 0, 1)] {
        let request = mailgun_request(&http, &world, "t1", event);
        let wire = accepted(send(request).await).await;
        assert_eq!(
            (answer_names(&wire).len(), &wire["replayed"]),
            (answers, &json!(replayed)),
            "{wire}"
        );
    }
    assert_eq!(
        world.standing(JO).await,
        Standing::Active,
        "the signature does not cover the event"
    );
}

#[tokio::test]
async fn a_mailgun_token_that_comes_many_times_at_once_is_valid_for_one_request_too() {
    let world = World::new().await;
    let http = serve(&world, Service::Mailgun, secret(KEY)).await;
    let addresses = (0..16)
        .map(|n| format!("user{n}@example.com"))
        .collect::<Vec<_>>();
    let post = async |address: &String| {
        let complained = json!({"event": "complained", "recipient": address});
        let request = mailgun_request(&http, &world, "t1", &complained);
        send(request).await.status().as_u16()
    };
    let statuses = join_all(addresses.iter().map(post)).await;
    assert!(
        statuses.iter().all(|status| [200, 503].contains(status)),
        "{statuses:?}"
    );
    assert!(statuses.contains(&200), "{statuses:?}");
    assert_eq!(
        world.events_of(EventKind::AddressSuppressed).await.len(),
        1,
        "{statuses:?}"
    );
    assert_eq!(
        post(&addresses[0]).await,
        200,
        "a later repetition is answered as known"
    );
    assert_eq!(world.events_of(EventKind::AddressSuppressed).await.len(), 1);
}

#[tokio::test]
async fn a_mailgun_request_that_could_not_be_stored_is_accepted_when_it_is_repeated() {
    let servers = Servers::new(&programs()[0]);
    let master = servers.start(&[]).await;
    let replica = servers.start_replica(master, &[]).await;
    let redis = format!("url = \"redis://127.0.0.1:{master}\"\ndurability = \"replicas:1\"\n");
    let world = World::on(connections(&redis), Settings::default()).await;
    let http = serve(&world, Service::Mailgun, secret(KEY)).await;
    let body = mailgun(KEY, world.now(), "t1", &deferred(world.now()));
    let post = async || send(http.post("/v1/hooks/mailgun").json(&body)).await;
    servers.signal(replica, "-STOP");
    for _ in 0..2 {
        let why = problem(post().await, 503).await;
        assert!(
            why["detail"]
                .as_str()
                .unwrap()
                .contains("store does not answer"),
            "no other request has the token: {why}"
        );
    }
    servers.signal(replica, "-CONT");
    let wire = eventually("an answer of 200", async || {
        Some(post().await).filter(|answer| answer.status() == 200)
    })
    .await;
    assert_eq!(
        json(wire).await["replayed"],
        0,
        "the token had not been used"
    );
    assert_eq!(json(post().await).await["replayed"], 1);
}

#[tokio::test]
async fn webhooks_in_the_older_form_of_mailgun_are_understood_too() {
    let world = World::new().await;
    let http = serve(&world, Service::Mailgun, secret(KEY)).await;
    let signed = mailgun(KEY, world.now(), "t1", &Value::Null)["signature"].clone();
    let part = |key: &str| signed[key].as_str().unwrap().to_owned();
    for (key, status) in [("signature", 200), ("token", 401)] {
        // The second request has the token in place of the signature, which is not valid.
        let fields = [
            ("event", "complained".to_owned()),
            ("recipient", JO.to_owned()),
            ("timestamp", part("timestamp")),
            ("token", part("token")),
            ("signature", part(key)),
        ];
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let request = http
            .post("/v1/hooks/mailgun")
            .header("content-type", "application/x-www-form-urlencoded");
        assert_eq!(send(request.body(body)).await.status(), status, "{key}");
    }
    assert_eq!(world.standing(JO).await, Standing::Suppressed);
}

/// A key pair as SendGrid has it, and the public key as SendGrid shows it.
fn sendgrid_key() -> (EcdsaKeyPair, String) {
    let document =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .unwrap();
    let key = EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_ASN1_SIGNING,
        document.as_ref(),
        &SystemRandom::new(),
    )
    .unwrap();
    // RFC 5480: the algorithm and the curve, then the point.
    let mut info = BASE64_STANDARD
        .decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgA=")
        .unwrap();
    info.extend_from_slice(key.public_key().as_ref());
    (key, BASE64_STANDARD.encode(info))
}

fn sendgrid(http: &Http, key: &EcdsaKeyPair, signed: Timestamp, body: &str) -> RequestBuilder {
    let timestamp = (signed.ms() / 1_000).to_string();
    let signature = key
        .sign(
            &SystemRandom::new(),
            format!("{timestamp}{body}").as_bytes(),
        )
        .unwrap();
    http.post("/v1/hooks/sendgrid")
        .header("content-type", "application/json")
        .header(
            "X-Twilio-Email-Event-Webhook-Signature",
            BASE64_STANDARD.encode(signature),
        )
        .header("X-Twilio-Email-Event-Webhook-Timestamp", timestamp)
        .body(body.to_owned())
}

#[tokio::test]
async fn a_sendgrid_request_with_many_events_is_accepted_and_a_replay_changes_nothing() {
    let world = World::new().await;
    let (key, public) = sendgrid_key();
    let http = serve(&world, Service::SendGrid, secret(&public)).await;
    let at = world.now().ms() / 1_000;
    let event = |kind: &str, name: &str, more: Value| {
        let mut event = json!({"event": kind, "email": format!("{name}@example.com"),
            "timestamp": at, "sg_event_id": format!("e-{kind}-{name}"), "smtp-id": "<m1>"});
        event
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        event
    };
    let body = json!([
        event("deferred", "a", json!({"response": FULL})),
        event(
            "bounce",
            "b",
            json!({"type": "bounce", "reason": "550 5.1.1 nobody", "status": "5.1.1"})
        ),
        event("spamreport", "c", json!({})),
        event("processed", "d", json!({})),
        event("teleported", "e", json!({})),
        event("delivered", "not an address", json!({})),
        event("open", "f", json!({})),
    ])
    .to_string();
    let wire = accepted(send(sendgrid(&http, &key, world.now(), &body)).await).await;
    assert_eq!(
        answer_names(&wire),
        ["scheduled", "retired", "suppressed", "refused", "noted"]
    );
    assert_eq!(
        (&wire["ignored"], &wire["unknown"]),
        (&json!(1), &json!({"teleported": 1}))
    );

    // The job of `a` has ended, and `c` is active again. The replay changes neither.
    assert!(world.job_if_any("a@example.com").await.is_some());
    world
        .report_fact(json!({"type": "delivered", "recipient": "a@example.com",
        "occurred_at": "2020-01-01T00:00:00Z"}))
        .await;
    world.reinstate("c@example.com").await;
    let events = world.events().await;
    world.clock.advance(HOUR);
    let wire = accepted(send(sendgrid(&http, &key, world.now(), &body)).await).await;
    assert_eq!(
        (answer_names(&wire), &wire["replayed"]),
        (vec!["refused", "noted"], &json!(3))
    );
    assert_eq!(world.events().await, events);
    assert_eq!(world.standing("c@example.com").await, Standing::Active);
    let counts = http.get_json("/v1/hooks").await["sendgrid"].clone();
    assert_eq!(
        (&counts["taken"], &counts["refused"], &counts["replayed"]),
        (&json!(5), &json!(2), &json!(3))
    );
    assert_eq!(
        (&counts["unknown"], &counts["configured"]),
        (&json!({"teleported": 2}), &json!(true))
    );
}

#[tokio::test]
async fn a_sendgrid_request_whose_bytes_do_not_match_the_signature_changes_nothing() {
    let world = World::new().await;
    let (key, public) = sendgrid_key();
    let http = serve(&world, Service::SendGrid, secret(&public)).await;
    let body = json!([{"event": "spamreport", "email": JO}]).to_string();
    let (now, other) = (world.now(), sendgrid_key().0);
    let long_ago = Timestamp::from_ms(now.ms() - 13 * 3_600_000);
    let signed = sendgrid(&http, &key, now, &body).build().unwrap();
    let with = |name: &str, value: &str| {
        let mut request = http.post("/v1/hooks/sendgrid").body(body.clone());
        for header in [
            "X-Twilio-Email-Event-Webhook-Signature",
            "X-Twilio-Email-Event-Webhook-Timestamp",
        ] {
            let kept = signed.headers()[header].to_str().unwrap();
            request = request.header(header, if header.ends_with(name) { value } else { kept });
        }
        request
    };
    for (what, request) in [
        ("another key", sendgrid(&http, &other, now, &body)),
        (
            "another body",
            sendgrid(&http, &key, now, &body).body(format!("{body} ")),
        ),
        ("long ago", sendgrid(&http, &key, long_ago, &body)),
        (
            "no signature",
            http.post("/v1/hooks/sendgrid").body(body.clone()),
        ),
        ("another time", with("Timestamp", "1795262401")),
        ("garbled", with("Signature", "????")),
        ("empty", with("Signature", "")),
    ] {
        problem(send(request).await, 401).await;
        assert_eq!(world.events().await, [], "{what}");
    }
    assert_eq!(
        answer_names(&accepted(send(with("neither", "")).await).await).len(),
        1,
        "the unchanged request is accepted"
    );
}

#[tokio::test]
async fn a_webhook_needs_the_configured_password_or_token() {
    let record = json!({"RecordType": "SpamComplaint", "Email": JO, "MessageID": "m1", "ID": 7});
    let event = json!([{"msys": {"track_event": {"type": "spam_complaint", "raw_rcpt_to": JO,
        "event_id": "e1"}}}]);
    let report = json!({"type": "Feedback", "feedback_report": {"feedback_type": "abuse",
        "original_rcpt_to": [JO]}});
    for (service, hook, body) in [
        (Service::Postmark, login(), record),
        (Service::SparkPost, login(), event),
        (Service::KumoMta, secret("geheim"), report),
    ] {
        let world = World::new().await;
        let path = format!("/v1/hooks/{}", service.as_str());
        let http = serve(
            &world,
            service,
            Hook {
                account: "acme".to_owned().try_into().unwrap(),
                ..hook
            },
        )
        .await;
        let request = || http.post(&path).json(&body);
        for request in [
            request(),
            request().basic_auth("service", Some("falsch")),
            request().basic_auth("other", Some("geheim")),
            request().bearer_auth("falsch"),
        ] {
            let response = send(request).await;
            assert!(
                response.headers().contains_key("www-authenticate"),
                "{path}"
            );
            problem(response, 401).await;
        }
        assert_eq!(world.events().await, [], "{path}");
        let good = match service {
            Service::KumoMta => request().bearer_auth("geheim"),
            _ => request().basic_auth("service", Some("geheim")),
        };
        let wire = accepted(send(good).await).await;
        assert_eq!(
            (answer_names(&wire), &wire["answers"][0]["job"]),
            (vec!["suppressed"], &json!(format!("acme/{JO}")))
        );
        assert_eq!(world.events_of(EventKind::AddressSuppressed).await.len(), 1);
    }
}

#[tokio::test]
async fn a_repeated_webhook_with_a_valid_password_or_token_changes_nothing() {
    let postmark = json!([
        {"RecordType": "SpamComplaint", "Email": JO, "MessageID": "m1", "ID": 7},
        {"RecordType": "Bounce", "Type": "SoftBounce", "Email": SAM, "MessageID": "m1", "ID": 8,
            "Details": FULL},
    ]);
    let track = |kind: &str, id: &str, more: Value| {
        let mut event = json!({"type": kind, "event_id": id});
        event
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({"msys": {"event": event}})
    };
    let sparkpost = json!([
        track("spam_complaint", "e1", json!({"raw_rcpt_to": JO})),
        track(
            "bounce",
            "e2",
            json!({"raw_rcpt_to": SAM, "bounce_class": "22", "raw_reason": FULL})
        ),
    ]);
    let response = json!({"code": 452, "content": "4.3.1 full"});
    let kumomta = json!([
        {"type": "Feedback", "id": "k1", "feedback_report": {"feedback_type": "abuse",
            "original_rcpt_to": [JO]}},
        {"type": "TransientFailure", "id": "k2", "recipient": SAM, "num_attempts": 1,
            "response": response},
    ]);
    for (service, hook, body) in [
        (Service::Postmark, login(), postmark),
        (Service::SparkPost, login(), sparkpost),
        (Service::KumoMta, secret("geheim"), kumomta),
    ] {
        let world = World::new().await;
        let path = format!("/v1/hooks/{}", service.as_str());
        let http = serve(&world, service, hook).await;
        let post = async |body: &Value| {
            let request = http.post(&path).json(body);
            let authenticated = match service {
                Service::KumoMta => request.bearer_auth("geheim"),
                _ => request.basic_auth("service", Some("geheim")),
            };
            accepted(send(authenticated).await).await
        };
        // Postmark sends one event per request.
        let bodies = if service == Service::Postmark {
            body.as_array().unwrap().clone()
        } else {
            vec![body]
        };
        let mut answers = Vec::new();
        for body in &bodies {
            answers.extend(
                answer_names(&post(body).await)
                    .into_iter()
                    .map(str::to_owned),
            );
        }
        assert_eq!(answers, ["suppressed", "scheduled"], "{path}");
        world.reinstate(JO).await;
        world.post_bounce(bounce(SAM, "m9", UNKNOWN)).await;
        world.reinstate(SAM).await;
        let events = world.events().await;
        world.clock.advance(HOUR);
        for body in &bodies {
            let wire = post(body).await;
            let expected = if bodies.len() == 1 { 2 } else { 1 };
            assert_eq!(
                (answer_names(&wire).len(), &wire["replayed"]),
                (0, &json!(expected)),
                "{path}: {wire}"
            );
        }
        assert_eq!(world.events().await, events, "{path}");
        assert_eq!(
            world.standing(JO).await,
            Standing::Active,
            "{path}: an operator reinstated the address"
        );
        assert!(
            world.job_if_any(SAM).await.is_none(),
            "{path}: no new job starts"
        );
    }
}

#[tokio::test]
async fn an_unknown_event_is_answered_with_202_and_counted_and_changes_nothing() {
    let world = World::new().await;
    let http = serve(&world, Service::Postmark, login()).await;
    let post = |body: &'static str| {
        send(
            http.post("/v1/hooks/postmark")
                .basic_auth("service", Some("geheim"))
                .body(body),
        )
    };
    for n in 1..=3 {
        let response = post(r#"{"RecordType": "Teleport"}"#).await;
        assert_eq!(response.status(), 202);
        assert_eq!(json(response).await["unknown"], json!({"Teleport": 1}));
        assert_eq!(
            http.get_json("/v1/hooks").await["postmark"]["unknown"],
            json!({"Teleport": n})
        );
    }
    problem(post("no json").await, 400).await;
    assert_eq!(world.events().await, []);
}

#[tokio::test]
async fn a_request_to_an_unconfigured_hook_is_answered_with_the_key_to_set() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    for service in Service::ALL {
        let response = send(
            http.post(&format!("/v1/hooks/{}", service.as_str()))
                .body("{}"),
        )
        .await;
        let why = problem(response, 404).await;
        assert!(
            why["detail"].as_str().unwrap().contains(service.key()),
            "{why}"
        );
    }
    let why = problem(send(http.post("/v1/hooks/mailjet").body("{}")).await, 404).await;
    assert!(why["detail"].as_str().unwrap().contains("kumomta"), "{why}");
}

#[tokio::test]
async fn a_deferral_that_the_platform_has_already_reported_is_a_duplicate() {
    let world = World::new().await;
    let http = serve(&world, Service::Mailgun, secret(KEY)).await;
    world
        .post_bounce(bounce(JO, "<m1@example.org>", FULL))
        .await;
    for token in ["t1", "t2"] {
        let request = mailgun_request(&http, &world, token, &deferred(world.now()));
        assert_eq!(
            answer_names(&accepted(send(request).await).await),
            ["duplicate"],
            "the platform has already reported it"
        );
    }
    assert_eq!(world.waiting(JO).await.len(), 1);
}
