//! What KumoMTA tells.

use config::hooks::Service;
use serde_json::json;

use super::{tell, with};

#[test]
fn kumomta_records_mean() {
    let base = json!({"id": "k1", "recipient": "jo@example.com", "timestamp": 1_795_262_400, "num_attempts": 3});
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
            json!({"type": "TransientFailure", "response": {"code": 400, "content": "KumoMTA internal: no MX"}}),
            "bounce jo@example.com k1: 400 KumoMTA internal: no MX",
        ),
        (
            json!({"type": "Expiration", "response": response(551, 5, 4, 7, "Next delivery time would be too late")}),
            "bounce jo@example.com k1: 551 5.4.7 Next delivery time would be too late [4.4.7]",
        ),
        (
            json!({"type": "OOB", "response": response(552, 5, 2, 2, "full")}),
            "bounce jo@example.com k1: 552 5.2.2 full",
        ),
        (
            json!({"type": "Feedback", "recipient": "fbl@example.org", "feedback_report": {"feedback_type": "abuse", "original_rcpt_to": ["jo@example.com"]}}),
            "complaint jo@example.com k1",
        ),
        (
            json!({"type": "Feedback", "feedback_report": {"feedback_type": "not-spam", "original_rcpt_to": ["jo@example.com"]}}),
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
            tell(Service::KumoMta, &with(&base, &record).to_string()),
            [expected],
            "{record}"
        );
    }
    let lines = "{\"type\":\"Delivery\",\"recipient\":[\"a@example.com\",\"b@example.com\"]}\n\n{\"type\":\"Reception\"}\n";
    assert_eq!(
        tell(Service::KumoMta, lines),
        [
            "delivered a@example.com -",
            "delivered b@example.com -",
            "ignored Reception"
        ]
    );
}
