//! What each service's events mean, as tables: an event as the service would send it, and what is
//! made of it, in short.

use axum::http::{HeaderMap, HeaderValue, header};
use config::hooks::{Hook, Service};
use serde_json::{Value, json};

use super::{Event, Said, read};

mod kumomta;
mod mailgun;
mod postmark;
mod sendgrid;
mod ses;
mod sparkpost;

/// An event in short: `bounce jo@example.com m1: 550 5.1.1 nobody`, with the status that goes
/// before the reply's in brackets.
fn short(event: &Event) -> String {
    let about = |item: &Value| {
        let word = |key: &str| item[key].as_str().unwrap_or("-").to_owned();
        format!("{} {}", word("recipient"), word("message_id"))
    };
    match &event.said {
        Said::Bounce(item) => {
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
        Said::Fact(item) => format!("{} {}", item["type"].as_str().unwrap_or("-"), about(item)),
        Said::Ignored(kind) => format!("ignored {kind}"),
        Said::Unknown(kind) => format!("unknown {kind}"),
    }
}

fn tell(service: Service, body: &str) -> Vec<String> {
    let json = HeaderMap::from_iter([(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )]);
    let events = read(service, &Hook::default(), &json, body.as_bytes())
        .unwrap_or_else(|why| panic!("{body}: {why}"));
    events.iter().map(short).collect()
}

/// `base` with the fields of `more` in it.
fn with(base: &Value, more: &Value) -> Value {
    let mut merged = base.clone();
    for (key, value) in more.as_object().unwrap() {
        merged[key] = value.clone();
    }
    merged
}

#[test]
fn a_service_that_tries_on_may_be_left_to_it() {
    let left = Hook {
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
            json!({"event-data": {"event": "failed", "severity": "temporary", "recipient": "jo@example.com"}}),
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
        for (hook, bounces) in [(&left, 0), (&Hook::default(), 1)] {
            let events = read(
                service,
                hook,
                &HeaderMap::new(),
                body.to_string().as_bytes(),
            )
            .unwrap();
            let found = events
                .iter()
                .filter(|event| matches!(event.said, Said::Bounce(_)));
            assert_eq!(found.count(), bounces, "{body}");
        }
    }
}

#[test]
fn whatever_comes_is_no_panic() {
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
