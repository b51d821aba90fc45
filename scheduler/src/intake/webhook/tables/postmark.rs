//! The table of Postmark's events.

use config::hooks::Service;
use serde_json::{Value, json};

use super::{read_in_short, with};

#[test]
fn postmark_records_are_read_as_in_the_table() {
    let base = json!({"ID": 7, "MessageID": "m1", "Email": "jo@example.com"});
    let bounce = |kind: &str, details: &str| {
        json!({
            "RecordType": "Bounce", "Type": kind, "Details": details,
        })
    };
    let change = |suppress: bool, reason: Value| {
        json!({
            "RecordType": "SubscriptionChange",
            "SuppressSending": suppress,
            "SuppressionReason": reason,
        })
    };
    for (record, expected) in [
        (
            json!({"RecordType": "Delivery"}),
            "delivered jo@example.com m1",
        ),
        (json!({"RecordType": "Open"}), "engaged jo@example.com m1"),
        (
            json!({"RecordType": "Click", "Email": null, "Recipient": "sam@example.com"}),
            "engaged sam@example.com m1",
        ),
        (
            json!({"RecordType": "SpamComplaint"}),
            "complaint jo@example.com m1",
        ),
        (
            bounce("HardBounce", "smtp;550 5.1.1 nobody"),
            "bounce jo@example.com m1: smtp;550 5.1.1 nobody",
        ),
        (
            bounce("HardBounce", "nobody"),
            "bounce jo@example.com m1: 550 5.1.1 nobody",
        ),
        (
            bounce("SoftBounce", "smtp;552 5.2.2 full"),
            "bounce jo@example.com m1: smtp;552 5.2.2 full [4.2.2]",
        ),
        (
            bounce("Transient", "smtp;451 4.3.2 later"),
            "bounce jo@example.com m1: smtp;451 4.3.2 later",
        ),
        (
            bounce("DnsError", "no such host"),
            "bounce jo@example.com m1: 450 4.4.4 no such host",
        ),
        (
            bounce("Blocked", "listed"),
            "bounce jo@example.com m1: 554 5.7.1 listed",
        ),
        (bounce("SpamComplaint", ""), "complaint jo@example.com m1"),
        (bounce("Unsubscribe", ""), "unsubscribe jo@example.com m1"),
        (
            bounce("AutoResponder", "I am away"),
            "ignored AutoResponder",
        ),
        (bounce("Teleported", ""), "unknown Bounce Teleported"),
        (
            change(true, json!("HardBounce")),
            "bounce jo@example.com m1: 550 5.1.1 bounced before",
        ),
        (
            change(true, json!("SpamComplaint")),
            "complaint jo@example.com m1",
        ),
        (
            change(true, json!("ManualSuppression")),
            "unsubscribe jo@example.com m1",
        ),
        (
            change(false, json!(null)),
            "ignored SubscriptionChange to reactivate",
        ),
        (json!({"RecordType": "Teleport"}), "unknown Teleport"),
        (json!({}), "unknown a record without a type"),
    ] {
        assert_eq!(
            read_in_short(Service::Postmark, &with(&base, &record).to_string()),
            [expected],
            "{record}"
        );
    }
}
