//! Tables of tests, one per service: an event as the service sends it, and in short the result of
//! reading it.

use axum::http::{HeaderMap, HeaderValue, header};
use config::hooks::{Hook, Service};
use serde_json::{Value, json};

use super::event::{Event, EventMeaning};
use super::read;

mod kumomta;
mod mailgun;
mod postmark;
mod sendgrid;
mod ses;
mod sparkpost;

/// Returns an event in short, like `bounce jo@example.com m1: 552 5.2.2 full [4.2.2]`. The status
/// in brackets overrides the one of the reply. It is left out if there is none.
fn in_short(event: &Event) -> String {
    let about = |item: &Value| {
        let word = |key: &str| item[key].as_str().unwrap_or("-").to_owned();
        format!("{} {}", word("recipient"), word("message_id"))
    };
    match &event.meaning {
        EventMeaning::Bounce(item) => {
            let status = item["status"]
                .as_str()
                .map(|status| format!(" [{status}]"))
                .unwrap_or_default();
            format!(
                "bounce {}: {}{status}",
                about(item),
                item["reply"].as_str().unwrap_or("-")
            )
        }
        EventMeaning::Fact(item) => {
            format!("{} {}", item["type"].as_str().unwrap_or("-"), about(item))
        }
        EventMeaning::Ignored(kind) => format!("ignored {kind}"),
        EventMeaning::Unknown(kind) => format!("unknown {kind}"),
    }
}

fn read_in_short(service: Service, body: &str) -> Vec<String> {
    let json = HeaderMap::from_iter([(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )]);
    let events = read(service, &Hook::default(), &json, body.as_bytes())
        .unwrap_or_else(|why| panic!("{body}: {why}"));
    events.iter().map(in_short).collect()
}

/// Returns `base` with the fields of `more` added.
fn with(base: &Value, more: &Value) -> Value {
    let mut merged = base.clone();
    for (key, value) in more.as_object().unwrap() {
        merged[key] = value.clone();
    }
    merged
}

#[test]
fn deferrals_can_be_left_to_the_service() {
    let without_deferrals = Hook {
        deferrals: false,
        ..Hook::default()
    };
    for (service, body) in [
        (
            Service::SendGrid,
            json!([{"event": "deferred", "email": "jo@example.com", "response": "451 later"}]),
        ),
        (
            Service::Mailgun,
            json!({"event-data": {
                "event": "failed", "severity": "temporary", "recipient": "jo@example.com",
            }}),
        ),
        (
            Service::Postmark,
            json!({"RecordType": "Bounce", "Type": "Transient", "Email": "jo@example.com"}),
        ),
        (
            Service::SparkPost,
            json!([{"msys": {"message_event": {"type": "delay", "rcpt_to": "jo@example.com"}}}]),
        ),
        (
            Service::KumoMta,
            json!({"type": "TransientFailure", "recipient": "jo@example.com"}),
        ),
    ] {
        for (hook, bounces) in [(&without_deferrals, 0), (&Hook::default(), 1)] {
            let events = read(
                service,
                hook,
                &HeaderMap::new(),
                body.to_string().as_bytes(),
            )
            .unwrap();
            let found = events
                .iter()
                .filter(|event| matches!(event.meaning, EventMeaning::Bounce(_)));
            assert_eq!(found.count(), bounces, "{body}");
        }
    }
}

#[test]
fn no_body_causes_a_panic() {
    let bodies = [
        "",
        "{",
        "[]",
        "null",
        "7",
        "\"x\"",
        "[null,7,[],{}]",
        "{\"Message\":\"{}\"}",
        "{\"msys\":7}",
        "\u{0}",
        "{\"event-data\":7}",
    ];
    for service in Service::ALL {
        for body in bodies {
            let _ = read(
                service,
                &Hook::default(),
                &HeaderMap::new(),
                body.as_bytes(),
            );
        }
    }
}
