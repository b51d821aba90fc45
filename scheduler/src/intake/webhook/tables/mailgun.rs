//! The table of Mailgun's events.

use axum::http::{HeaderMap, HeaderValue, header};
use config::hooks::{Hook, Service};
use serde_json::{Value, json};

use super::{in_short, read_in_short, with};
use crate::intake::webhook::read;

#[test]
fn mailgun_events_are_read_as_in_the_table() {
    let base = json!({
        "recipient": "jo@example.com", "timestamp": 1_795_262_400.5,
        "message": {"headers": {"message-id": "m1@example.org", "to": "Jo <jo@example.com>"}},
    });
    let failed = |severity: &str, reason: &str, status: Value| {
        json!({
            "event": "failed",
            "severity": severity,
            "reason": reason,
            "delivery-status": status,
        })
    };
    for (event, expected) in [
        (
            json!({"event": "delivered"}),
            "delivered jo@example.com <m1@example.org>",
        ),
        (
            json!({"event": "opened"}),
            "engaged jo@example.com <m1@example.org>",
        ),
        (
            json!({"event": "clicked"}),
            "engaged jo@example.com <m1@example.org>",
        ),
        (
            json!({"event": "complained"}),
            "complaint jo@example.com <m1@example.org>",
        ),
        (
            json!({"event": "unsubscribed"}),
            "unsubscribe jo@example.com <m1@example.org>",
        ),
        (
            failed(
                "permanent",
                "bounce",
                json!({"code": 550, "enhanced-code": "5.1.1", "message": "nobody"}),
            ),
            "bounce jo@example.com <m1@example.org>: 550 5.1.1 nobody",
        ),
        (
            failed(
                "permanent",
                "bounce",
                json!({"code": 550, "message": "550 5.1.1 nobody"}),
            ),
            "bounce jo@example.com <m1@example.org>: 550 5.1.1 nobody",
        ),
        (
            failed(
                "permanent",
                "generic",
                json!({"code": 452, "message": "4.3.1 full", "description": ""}),
            ),
            "bounce jo@example.com <m1@example.org>: 452 4.3.1 full",
        ),
        (
            failed("permanent", "suppress-bounce", json!({"code": 605})),
            "bounce jo@example.com <m1@example.org>: 550 5.1.1 bounced before",
        ),
        (
            failed("permanent", "suppress-complaint", json!({"code": 607})),
            "complaint jo@example.com <m1@example.org>",
        ),
        (
            failed("permanent", "suppress-unsubscribe", json!({"code": 606})),
            "unsubscribe jo@example.com <m1@example.org>",
        ),
        (
            failed(
                "permanent",
                "old",
                json!({"code": 602, "message": "Too old"}),
            ),
            "bounce jo@example.com <m1@example.org>: 450 4.4.7 Too old",
        ),
        (
            failed(
                "temporary",
                "generic",
                json!({"code": 498, "message": "No MX for example.com"}),
            ),
            "bounce jo@example.com <m1@example.org>: 450 No MX for example.com",
        ),
        (
            failed(
                "temporary",
                "greylisted",
                json!({"code": 450, "message": "Greylisted"}),
            ),
            "bounce jo@example.com <m1@example.org>: 450 Greylisted",
        ),
        (
            failed(
                "temporary",
                "generic",
                json!({"code": 552, "enhanced-code": "5.2.2", "message": "full"}),
            ),
            "bounce jo@example.com <m1@example.org>: 552 5.2.2 full [4.2.2]",
        ),
        (
            json!({"event": "rejected", "reject": {"reason": "sandbox"}}),
            "bounce jo@example.com <m1@example.org>: 554 5.7.0 sandbox",
        ),
        (
            json!({"event": "rejected", "recipient": null, "reject": {"reason": "x"}}),
            "bounce <jo@example.com> <m1@example.org>: 554 5.7.0 x",
        ),
        (json!({"event": "accepted"}), "ignored accepted"),
        (json!({"event": "teleported"}), "unknown teleported"),
    ] {
        let body = json!({"signature": {}, "event-data": with(&base, &event)}).to_string();
        assert_eq!(
            read_in_short(Service::Mailgun, &body),
            [expected],
            "{event}"
        );
    }
    let form = HeaderMap::from_iter([(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    )]);
    for (body, expected) in [
        (
            "event=bounced&recipient=jo%40example.com&code=550&error=5.1.1+nobody\
             &Message-Id=%3Cm1%3E",
            "bounce jo@example.com <m1>: 550 5.1.1 nobody",
        ),
        (
            "event=dropped&recipient=jo%40example.com&code=605&reason=hardfail",
            "bounce jo@example.com -: 550 5.1.1 bounced before",
        ),
        (
            "event=complained&recipient=jo%40example.com",
            "complaint jo@example.com -",
        ),
        ("a=b", "unknown an event without a type"),
    ] {
        let events = read(Service::Mailgun, &Hook::default(), &form, body.as_bytes()).unwrap();
        assert_eq!(
            events.iter().map(in_short).collect::<Vec<_>>(),
            [expected],
            "{body}"
        );
    }
}
