//! The table of SendGrid's events.

use config::hooks::Service;
use serde_json::{Value, json};

use super::{read_in_short, with};

#[test]
fn sendgrid_events_are_read_as_in_the_table() {
    let base = json!({
        "email": "jo@example.com",
        "timestamp": 1_795_262_400,
        "smtp-id": "<m1@example.org>",
        "sg_event_id": "e1",
    });
    let bounce = |kind: &str, status: &str, reason: &str| {
        json!({
            "event": "bounce", "type": kind, "status": status, "reason": reason,
        })
    };
    for (event, expected) in [
        (
            json!({"event": "delivered", "response": "250 OK"}),
            "delivered jo@example.com <m1@example.org>",
        ),
        (
            json!({"event": "open"}),
            "engaged jo@example.com <m1@example.org>",
        ),
        (
            json!({"event": "open", "sg_machine_open": false}),
            "engaged jo@example.com <m1@example.org>",
        ),
        (
            json!({"event": "open", "sg_machine_open": true}),
            "ignored open by a machine",
        ),
        (
            json!({"event": "click", "url": "https://example.org"}),
            "engaged jo@example.com <m1@example.org>",
        ),
        (
            json!({"event": "spamreport"}),
            "complaint jo@example.com <m1@example.org>",
        ),
        (
            json!({"event": "unsubscribe"}),
            "unsubscribe jo@example.com <m1@example.org>",
        ),
        (
            json!({"event": "group_unsubscribe", "asm_group_id": 7}),
            "unsubscribe jo@example.com <m1@example.org>",
        ),
        (
            bounce("bounce", "5.1.1", "550 5.1.1 nobody"),
            "bounce jo@example.com <m1@example.org>: 550 5.1.1 nobody",
        ),
        (
            bounce("bounce", "5.0.0", "550 nobody"),
            "bounce jo@example.com <m1@example.org>: 5.0.0 550 nobody",
        ),
        (
            json!({"event": "bounce", "type": "bounce", "reason": ""}),
            "bounce jo@example.com <m1@example.org>: 550 5.1.1",
        ),
        (
            json!({"event": "bounce", "type": "blocked", "reason": "unable to get mx info"}),
            "bounce jo@example.com <m1@example.org>: 450 unable to get mx info",
        ),
        (
            json!({"event": "deferred", "response": "451 4.3.2 later", "attempt": "3"}),
            "bounce jo@example.com <m1@example.org>: 451 4.3.2 later",
        ),
        (
            json!({"event": "deferred", "response": "IPs were throttled"}),
            "bounce jo@example.com <m1@example.org>: 450 IPs were throttled",
        ),
        (
            json!({"event": "deferred", "response": "552 5.2.2 full"}),
            "bounce jo@example.com <m1@example.org>: 552 5.2.2 full [4.2.2]",
        ),
        (
            json!({"event": "dropped", "reason": "Bounced Address"}),
            "bounce jo@example.com <m1@example.org>: 550 5.1.1 bounced before",
        ),
        (
            json!({"event": "dropped", "reason": "Unsubscribed Address"}),
            "unsubscribe jo@example.com <m1@example.org>",
        ),
        (
            json!({"event": "dropped", "reason": "Spam Reporting Address"}),
            "complaint jo@example.com <m1@example.org>",
        ),
        (
            json!({"event": "dropped", "reason": "Invalid"}),
            "bounce jo@example.com <m1@example.org>: 550 5.1.3 invalid address",
        ),
        (
            json!({"event": "dropped", "reason": "Spam Content (if app enabled)"}),
            "bounce jo@example.com <m1@example.org>: 554 5.7.0 Spam Content (if app enabled)",
        ),
        (json!({"event": "processed"}), "ignored processed"),
        (json!({"event": "teleported"}), "unknown teleported"),
        (json!({}), "unknown an event without a type"),
    ] {
        let body = Value::Array(vec![with(&base, &event)]).to_string();
        assert_eq!(
            read_in_short(Service::SendGrid, &body),
            [expected],
            "{event}"
        );
    }
    let own_id =
        json!([{"event": "open", "email": "jo@example.com", "sg_message_id": "abc.filter01.7.0"}]);
    assert_eq!(
        read_in_short(Service::SendGrid, &own_id.to_string()),
        ["engaged jo@example.com abc"]
    );
}
