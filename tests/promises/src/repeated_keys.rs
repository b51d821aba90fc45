//! In our own formats, an item with a repeated key is refused. The error names the key, and no
//! other item is affected. In requests of mail services a repeated key is no error.

use config::hooks::{Hook, Service};
use config::model::Config;
use domain::event::EventKind;
use harness::bounce::{FULL, bounce};
use harness::http::{Http, NDJSON, json, json_lines, problem};
use harness::redis;
use harness::wait::eventually;
use harness::world::World;
use reqwest::Response;
use serde_json::{Value, json};
use typed_toml::secret::Secret;

const JO: &str = "jo@example.com";
const JSON: &str = "application/json";

/// Bounces whose only error is a repeated key, and the name of that key.
const BOUNCES: [(&str, &str); 4] = [
    (
        r#"{"recipient":"jo@example.com","reply":"452 full","recipient":"sam@example.com"}"#,
        "recipient",
    ),
    (
        r#"{"recipient":"jo@example.com","reply":"452 full","reply":"452 full"}"#,
        "reply",
    ),
    (
        r#"{"recipient":"jo@example.com","reply":"452 full","content":{"file":"/a","file":"/b"}}"#,
        "content.file",
    ),
    (
        r#"{"recipient":"jo@example.com","reply":"452 full","metadata":{"c":{"d":1,"d":2}}}"#,
        "metadata.c.d",
    ),
];

async fn post(http: &Http, path: &str, content_type: &str, body: String) -> Response {
    http.post(path)
        .header("content-type", content_type)
        .body(body)
        .send()
        .await
        .unwrap()
}

fn fields(answers: &[Value]) -> Vec<&str> {
    answers
        .iter()
        .map(|answer| answer["field"].as_str().unwrap_or("-"))
        .collect()
}

#[tokio::test]
async fn an_item_with_a_repeated_key_is_refused_in_every_form_and_affects_no_other() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let wanted: Vec<&str> = BOUNCES
        .iter()
        .map(|(_, field)| *field)
        .chain(["-"])
        .collect();
    let good = |n: u8| bounce(&format!("user{n}@example.com"), "m1", FULL).to_string();
    let texts = |n: u8| {
        BOUNCES
            .iter()
            .map(|(text, _)| (*text).to_owned())
            .chain([good(n)])
            .collect::<Vec<_>>()
    };

    let lines = json_lines(post(&http, "/v1/bounces", NDJSON, texts(1).join("\n")).await).await;
    assert_eq!(
        (fields(&lines), &lines[4]["answer"]),
        (wanted.clone(), &json!("scheduled"))
    );
    let array = json(
        post(
            &http,
            "/v1/bounces",
            JSON,
            format!("[{}]", texts(2).join(",")),
        )
        .await,
    )
    .await;
    assert_eq!(
        (fields(array.as_array().unwrap()), &array[4]["answer"]),
        (wanted, &json!("scheduled"))
    );
    for (text, field) in BOUNCES {
        let one = problem(post(&http, "/v1/bounces", JSON, text.to_owned()).await, 400).await;
        assert_eq!(
            (&one["field"], &one["answer"]),
            (&json!(field), &json!("refused")),
            "{one}"
        );
    }
    let fact = r#"{"type":"delivered","recipient":"jo@example.com","type":"complaint"}"#;
    for content_type in [JSON, NDJSON] {
        let response = post(&http, "/v1/facts", content_type, fact.to_owned()).await;
        assert_eq!(
            (
                response.status().as_u16(),
                json(response).await["field"].as_str()
            ),
            (400, Some("type"))
        );
    }
    assert!(
        world.job_if_any(JO).await.is_none(),
        "no refused item started a job"
    );
}

#[tokio::test]
async fn an_operator_request_with_a_repeated_key_is_refused() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    for (method, path, body, field) in [
        (
            "POST",
            "/v1/addresses/check",
            r#"{"addresses":["jo@example.com"],"addresses":[]}"#,
            "addresses",
        ),
        (
            "PUT",
            "/v1/destinations/example.com/hold",
            r#"{"reason":"a","reason":"b"}"#,
            "reason",
        ),
        (
            "PUT",
            "/v1/destinations/example.com/limits",
            r#"{"rate":1,"rate":1000}"#,
            "rate",
        ),
    ] {
        let request = if method == "PUT" {
            http.put(path)
        } else {
            http.post(path)
        };
        let response = request
            .header("content-type", JSON)
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(problem(response, 400).await["field"], field, "{path}");
    }
}

#[tokio::test]
async fn a_stream_entry_with_a_repeated_key_is_put_aside() {
    let world = World::new().await;
    let _scheduler = Http::serve(&world).await;
    let good = bounce("sam@example.com", "m1", FULL).to_string();
    for fields in [
        vec!["bounce", BOUNCES[0].0],
        vec!["bounce", &good, "bounce", &good],
        vec![
            "recipient",
            JO,
            "reply",
            FULL,
            "recipient",
            "sam@example.com",
        ],
        vec![
            "recipient",
            JO,
            "reply",
            FULL,
            "metadata",
            r#"{"c":1,"c":2}"#,
        ],
    ] {
        let key = format!("{}:intake", world.prefix);
        redis::ask(
            &redis::url(),
            &[&["XADD", &key, "*"], fields.as_slice()].concat(),
        )
        .await;
    }
    let refused = eventually("the events", async || {
        let refused = world.events_of(EventKind::IntakeRefused).await;
        (refused.len() == 4).then_some(refused)
    })
    .await;
    let reasons: Vec<&str> = refused
        .iter()
        .filter_map(|event| event.reason.as_deref())
        .collect();
    for (reason, field) in reasons
        .iter()
        .zip(["recipient", "bounce", "recipient", "metadata.c"])
    {
        assert!(
            reason.contains(&format!(": {field}: is there twice")),
            "{reasons:?}"
        );
    }
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn a_webhook_with_a_repeated_key_is_accepted_and_the_last_value_counts() {
    let world = World::new().await;
    let mut config = Config::embedded();
    let hook = Hook {
        user: Some("service".to_owned()),
        secret: Some(Secret::new("geheim")),
        ..Hook::default()
    };
    config.hooks.set(Service::Postmark, hook);
    let http = Http::serve_with(&world, &config).await;
    let event = json!({
        "RecordType": "Bounce", "Type": "SoftBounce", "Email": JO, "MessageID": "m1",
        "Details": "smtp;452 4.3.1 Insufficient system storage",
        "BouncedAt": world.now().to_string(),
    });
    let body = event
        .to_string()
        .replacen('{', r#"{"Type":"Other","Metadata":{"a":1,"a":2},"#, 1);
    let request = http
        .post("/v1/hooks/postmark")
        .basic_auth("service", Some("geheim"));
    let response = request
        .header("content-type", JSON)
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(json(response).await["answers"][0]["answer"], "scheduled");
}
