//! The table of SparkPost's events.

use config::hooks::Service;
use serde_json::json;

use super::{read_in_short, with};

#[test]
fn sparkpost_events_are_read_as_in_the_table() {
    let base = json!({
        "rcpt_to": "jo@...",
        "raw_rcpt_to": "jo@example.com",
        "transmission_id": "7",
        "event_id": "e1",
    });
    let bounce = |class: &str, reason: &str| {
        json!({
            "type": "bounce", "bounce_class": class, "raw_reason": reason,
        })
    };
    for (event, expected) in [
        (json!({"type": "delivery"}), "delivered jo@example.com 7"),
        (json!({"type": "initial_open"}), "engaged jo@example.com 7"),
        (json!({"type": "amp_click"}), "engaged jo@example.com 7"),
        (
            json!({"type": "spam_complaint"}),
            "complaint jo@example.com 7",
        ),
        (
            json!({"type": "list_unsubscribe"}),
            "unsubscribe jo@example.com 7",
        ),
        (
            bounce("10", "550 5.1.1 nobody"),
            "bounce jo@example.com 7: 550 5.1.1 nobody",
        ),
        (
            bounce("10", "nobody"),
            "bounce jo@example.com 7: 550 5.1.1 nobody",
        ),
        (
            bounce("22", "552 5.2.2 full"),
            "bounce jo@example.com 7: 552 5.2.2 full [4.2.2]",
        ),
        (bounce("21", "no MX"), "bounce jo@example.com 7: 450 no MX"),
        (
            bounce("51", "554 listed"),
            "bounce jo@example.com 7: 554 listed [5.7.1]",
        ),
        (bounce("60", "I am away"), "ignored an automatic reply"),
        (bounce("90", ""), "unsubscribe jo@example.com 7"),
        (bounce("1", ""), "bounce jo@example.com 7: 450"),
        (
            json!({"type": "delay", "error_code": "454", "raw_reason": "4.4.4 no MX"}),
            "bounce jo@example.com 7: 4.4.4 no MX",
        ),
        (
            json!({"type": "delay", "error_code": "454", "reason": "no MX"}),
            "bounce jo@example.com 7: 454 no MX",
        ),
        (
            json!({"type": "policy_rejection", "raw_reason": "suppressed"}),
            "bounce jo@example.com 7: 554 5.7.0 suppressed",
        ),
        (json!({"type": "injection"}), "ignored injection"),
        (json!({"type": "teleport"}), "unknown teleport"),
    ] {
        let body = json!([{"msys": {"message_event": with(&base, &event)}}]).to_string();
        assert_eq!(
            read_in_short(Service::SparkPost, &body),
            [expected],
            "{event}"
        );
    }
    assert_eq!(
        read_in_short(Service::SparkPost, r#"[{"msys":{}},{"else":1}]"#),
        ["ignored a test", "unknown an event without msys"]
    );
}
