//! The table of KumoMTA's events.

use axum::http::HeaderMap;
use config::hooks::{Hook, Service};
use serde_json::json;

use super::{read_in_short, with};
use crate::intake::maillog::LogReader;
use crate::intake::maillog::kumomta::Kumomta;
use crate::intake::webhook::event::EventMeaning;
use crate::intake::webhook::read;

#[test]
fn kumomta_records_are_read_as_in_the_table() {
    let base = json!({
        "id": "k1",
        "recipient": "jo@example.com",
        "timestamp": 1_795_262_400,
        "num_attempts": 3,
    });
    let response = |code: u16, class: u8, subject: u8, detail: u8, text: &str| {
        let status = json!({"class": class, "subject": subject, "detail": detail});
        json!({"code": code, "enhanced_code": status, "content": text})
    };
    for (record, expected) in [
        (
            json!({"type": "Delivery", "response": response(250, 2, 0, 0, "OK")}),
            "delivered jo@example.com k1",
        ),
        (
            json!({"type": "Bounce", "response": response(550, 5, 1, 1, "nobody")}),
            "bounce jo@example.com k1: 550 5.1.1 nobody",
        ),
        (
            json!({"type": "TransientFailure", "response": response(452, 4, 3, 1, "full")}),
            "bounce jo@example.com k1: 452 4.3.1 full",
        ),
        (
            json!({"type": "TransientFailure", "response": {
                "code": 400, "content": "KumoMTA internal: no MX",
            }}),
            "bounce jo@example.com k1: 400 KumoMTA internal: no MX",
        ),
        (
            json!({"type": "Expiration", "response": response(551, 5, 4, 7, "too late")}),
            "bounce jo@example.com k1: 551 5.4.7 too late [4.4.7]",
        ),
        (
            json!({"type": "OOB", "response": response(552, 5, 2, 2, "full")}),
            "bounce jo@example.com k1: 552 5.2.2 full",
        ),
        (
            json!({"type": "Feedback", "recipient": "fbl@example.org", "feedback_report": {
                "feedback_type": "abuse", "original_rcpt_to": ["jo@example.com"],
            }}),
            "complaint jo@example.com k1",
        ),
        (
            json!({"type": "Feedback", "feedback_report": {
                "feedback_type": "not-spam", "original_rcpt_to": ["jo@example.com"],
            }}),
            "ignored not-spam",
        ),
        (
            json!({"type": "Delivery", "headers": {"Message-ID": "<m1@example.org>"}}),
            "delivered jo@example.com <m1@example.org>",
        ),
        (json!({"type": "Reception"}), "ignored Reception"),
        (json!({"type": "AdminBounce"}), "ignored AdminBounce"),
        (json!({"type": "Teleport"}), "unknown Teleport"),
    ] {
        assert_eq!(
            read_in_short(Service::KumoMta, &with(&base, &record).to_string()),
            [expected],
            "{record}"
        );
    }
    let lines = "{\"type\":\"Delivery\",\"recipient\":[\"a@example.com\",\"b@example.com\"]}\n\n\
                 {\"type\":\"Reception\"}\n";
    assert_eq!(
        read_in_short(Service::KumoMta, lines),
        [
            "delivered a@example.com -",
            "delivered b@example.com -",
            "ignored Reception"
        ]
    );
}

#[test]
fn log_and_webhook_name_a_message_alike() {
    for (headers, id) in [
        (json!(null), "9f1c2a"),
        (
            json!({"Subject": "hello", "Message-ID": "<m1@example.org>"}),
            "9f1c2a",
        ),
        (json!({"message-id": "<m1@example.org>"}), ""),
        (json!({"Message-Id": ""}), "9f1c2a"),
        (json!({"Message-ID": ["<m1@example.org>"]}), "9f1c2a"),
        (json!([]), ""),
    ] {
        let record = json!({
            "type": "TransientFailure",
            "recipient": "jo@example.com",
            "headers": headers,
            "id": id,
        })
        .to_string();
        let by_log = Kumomta.bounces(&record).unwrap()[0]["message_id"].clone();
        let events = read(
            Service::KumoMta,
            &Hook::default(),
            &HeaderMap::new(),
            record.as_bytes(),
        );
        let EventMeaning::Bounce(by_webhook) = &events.unwrap()[0].meaning else {
            panic!("{record}")
        };
        assert_eq!(by_webhook["message_id"], by_log, "{record}");
    }
}
