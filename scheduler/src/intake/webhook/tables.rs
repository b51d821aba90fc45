//! Tables of tests, one per service: an event as the service sends it, and in short the result of
//! reading it.

use axum::http::{HeaderMap, HeaderValue, header};
use config::hooks::{Hook, Service};
use domain::clock::Timestamp;
use serde_json::{Value, json};

use super::event::{Event, EventMeaning};
use super::read;
use crate::intake::json::read_reported;

mod blocked;
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
        EventMeaning::Unreadable(why) => format!("unreadable {why}"),
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
fn an_event_that_cannot_be_read_affects_no_other() {
    let array = |item: &str, reply: &str| {
        format!(
            "[{}, {}, {{oh}}]",
            item,
            item.replace("no such user", reply)
        )
    };
    let msys = r#"{"msys": {"message_event": {"type": "bounce", "bounce_class": "10",
        "rcpt_to": "jo@example.com", "raw_reason": "550 5.1.1 no such user"}}}"#;
    let event = r#"{"event": "bounce", "type": "bounce", "email": "jo@example.com",
        "reason": "550 5.1.1 no such user"}"#;
    let record = r#"{"RecordType": "Bounce", "Type": "HardBounce", "Email": "jo@example.com",
        "Details": "550 5.1.1 no such user"}"#;
    let log = r#"{"type": "Bounce", "recipient": "jo@example.com",
        "response": {"code": 550, "content": "5.1.1 no such user"}}"#;
    for (service, item) in [
        (Service::SparkPost, msys),
        (Service::SendGrid, event),
        (Service::Postmark, record),
        (Service::KumoMta, log),
    ] {
        let read = read_in_short(service, &array(item, r"cut emoji \ud83d"));
        assert_eq!(
            read[..2],
            [
                "bounce jo@example.com -: 550 5.1.1 no such user",
                "bounce jo@example.com -: 550 5.1.1 cut emoji \u{fffd}",
            ],
            "{service:?}"
        );
        assert!(
            read[2].starts_with("unreadable"),
            "{service:?}: {}",
            read[2]
        );
    }
    let failed = r#"{"event-data": {"event": "failed", "severity": "permanent",
        "recipient": "jo@example.com", "delivery-status": {"message": "550 no \ud83d"}}}"#;
    assert_eq!(
        read_in_short(Service::Mailgun, failed),
        ["bounce jo@example.com -: 550 no \u{fffd}"]
    );
    let message = r#"{"notificationType": "Bounce", "mail": {}, "bounce": {
        "bounceType": "Permanent", "bouncedRecipients": [{"emailAddress": "jo@example.com",
        "diagnosticCode": "550 no \ud83d"}]}}"#;
    assert_eq!(
        read_in_short(Service::Ses, &json!({"Message": message}).to_string()),
        ["bounce jo@example.com -: 550 no \u{fffd}"]
    );
}

#[test]
fn a_time_that_cannot_be_read_is_passed_on_to_be_reported() {
    for (service, body) in [
        (
            Service::SendGrid,
            json!([{"event": "bounce", "email": "jo@example.com", "timestamp": "soon"}]),
        ),
        (
            Service::Mailgun,
            json!({"event-data": {
                "event": "failed", "recipient": "jo@example.com", "timestamp": "soon",
            }}),
        ),
        (
            Service::Postmark,
            json!({"RecordType": "Bounce", "Type": "HardBounce", "Email": "jo@example.com",
                "BouncedAt": "soon"}),
        ),
        (
            Service::SparkPost,
            json!([{"msys": {"message_event": {
                "type": "bounce", "rcpt_to": "jo@example.com", "timestamp": "soon",
            }}}]),
        ),
        (
            Service::KumoMta,
            json!({"type": "Bounce", "recipient": "jo@example.com", "timestamp": "soon"}),
        ),
        (
            Service::Ses,
            json!({"Message": json!({"notificationType": "Bounce", "mail": {}, "bounce": {
                "timestamp": "soon", "bounceType": "Permanent",
                "bouncedRecipients": [{"emailAddress": "jo@example.com"}],
            }}).to_string()}),
        ),
    ] {
        let body = body.to_string();
        let events = read(
            service,
            &Hook::default(),
            &HeaderMap::new(),
            body.as_bytes(),
        );
        let EventMeaning::Bounce(item) = events.unwrap().remove(0).meaning else {
            panic!("{body}")
        };
        let bounce = read_reported(item, Timestamp::from_ms(0)).unwrap();
        assert_eq!(bounce.warnings[0].field, "occurred_at", "{body}");
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
