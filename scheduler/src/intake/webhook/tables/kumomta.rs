//! The table of KumoMTA's events.

use axum::http::HeaderMap;
use config::hooks::{Hook, Service};
use serde_json::{Value, json};

use super::{read_in_short, with};
use crate::intake::maillog::kumomta::Kumomta;
use crate::intake::maillog::{LogItem, LogReader};
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
        let LogItem::Bounce(by_log) = Kumomta::default().items(&record).unwrap().remove(0) else {
            panic!("{record}")
        };
        let events = read(
            Service::KumoMta,
            &Hook::default(),
            &HeaderMap::new(),
            record.as_bytes(),
        );
        let EventMeaning::Bounce(by_webhook) = &events.unwrap()[0].meaning else {
            panic!("{record}")
        };
        assert_eq!(by_webhook["message_id"], by_log["message_id"], "{record}");
    }
}

#[test]
fn log_and_webhook_read_a_record_alike() {
    let content = |code: u16, text: &str, command: &str| {
        let command = command.to_owned() + "\r\n";
        json!({"code": code, "content": text, "command": command})
    };
    for (kind, response, expected, status) in [
        // The sender was refused: nothing is known about the address.
        (
            "Bounce",
            content(550, "User unknown", "MAIL FROM:<news@shop.example>"),
            "550 User unknown (in reply to MAIL FROM command)",
            None,
        ),
        (
            "Bounce",
            content(550, "Host unknown", "EHLO out1.shop.example"),
            "550 Host unknown (in reply to the connection)",
            None,
        ),
        (
            "Bounce",
            content(550, "User unknown", "."),
            "550 User unknown (in reply to end of DATA command)",
            None,
        ),
        // KumoMTA tries again, so it is soft.
        (
            "TransientFailure",
            content(552, "no such mailbox here", "."),
            "552 no such mailbox here (in reply to end of DATA command)",
            Some("4.0.0"),
        ),
        (
            "TransientFailure",
            content(452, "4.2.2 full", "RCPT TO:<jo@example.com>"),
            "452 4.2.2 full (in reply to RCPT TO command)",
            None,
        ),
        (
            "OOB",
            json!({"code": 552, "content": "full"}),
            "552 full",
            None,
        ),
        ("Expiration", json!({}), "450 4.4.7", None),
    ] {
        let record = json!({
            "type": kind, "id": "k1", "recipient": "jo@example.com", "queue": "q",
            "sender": "news@shop.example", "response": response, "timestamp": 1_795_262_400,
            "meta": {"campaign": "c42"}, "peer_address": {"name": "mx.example.com."},
        })
        .to_string();
        let LogItem::Bounce(by_log) = Kumomta::default().items(&record).unwrap().remove(0) else {
            panic!("{record}")
        };
        let events = read(
            Service::KumoMta,
            &Hook::default(),
            &HeaderMap::new(),
            record.as_bytes(),
        );
        let EventMeaning::Bounce(mut by_webhook) = events.unwrap().remove(0).meaning else {
            panic!("{record}")
        };
        let fields = by_webhook.as_object_mut().unwrap();
        fields.retain(|name, value| !value.is_null() && name != "account");
        assert_eq!(by_webhook, by_log, "{record}");
        assert_eq!(by_log["reply"], expected);
        assert_eq!(by_log.get("status"), status.map(Value::from).as_ref());
        assert_eq!(by_log["envelope_from"], "news@shop.example");
        assert_eq!(by_log["metadata"], json!({"campaign": "c42", "queue": "q"}));
    }
}

#[test]
fn a_line_that_is_not_json_affects_no_other() {
    let lines = "{\"type\":\"Delivery\",\"recipient\":\"a@example.com\"}\n{oh\n\
                 {\"type\":\"Reception\"}\n";
    let read = read_in_short(Service::KumoMta, lines);
    assert_eq!(
        [&read[0], &read[2]],
        ["delivered a@example.com -", "ignored Reception"]
    );
    assert!(
        read[1].starts_with("unreadable it is not JSON"),
        "{}",
        read[1]
    );
}
