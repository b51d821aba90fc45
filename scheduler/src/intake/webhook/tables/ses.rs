//! The table of the events that Amazon SES sends through SNS.

use axum::http::HeaderMap;
use config::hooks::{Hook, Service};
use serde_json::{Value, json};

use super::{read_in_short, with};
use crate::intake::webhook::read;

#[test]
fn ses_events_are_read_as_in_the_table() {
    let bounce = |kind: &str, subtype: &str, recipient: Value| {
        json!({"eventType": "Bounce", "bounce": {
            "bounceType": kind, "bounceSubType": subtype, "bouncedRecipients": [recipient],
        }})
    };
    let jo = |status: &str, reply: &str| {
        json!({
            "emailAddress": "jo@example.com", "status": status, "diagnosticCode": reply,
        })
    };
    let complaint = |kind: &str| {
        json!({"notificationType": "Complaint", "complaint": {
            "complainedRecipients": [{"emailAddress": "jo@example.com"}],
            "complaintFeedbackType": kind,
        }})
    };
    let subscription = |unsubscribe_all: bool| {
        json!({"eventType": "Subscription", "subscription": {
            "newTopicPreferences": {"unsubscribeAll": unsubscribe_all},
        }})
    };
    let bare = || json!({"emailAddress": "jo@example.com"});
    for (message, expected) in [
        (
            bounce(
                "Permanent",
                "General",
                jo("5.1.1", "smtp; 550 5.1.1 no such user"),
            ),
            "bounce jo@example.com s1: smtp; 550 5.1.1 no such user",
        ),
        (
            bounce("Permanent", "NoEmail", bare()),
            "bounce jo@example.com s1: 550 5.1.1",
        ),
        (
            bounce("Permanent", "OnAccountSuppressionList", bare()),
            "bounce jo@example.com s1: 550 5.1.1",
        ),
        (
            bounce("Permanent", "UnsubscribedRecipient", bare()),
            "unsubscribe jo@example.com s1",
        ),
        (
            bounce(
                "Transient",
                "General",
                jo("4.4.7", "smtp; 554 4.4.7 expired"),
            ),
            "bounce jo@example.com s1: smtp; 554 4.4.7 expired",
        ),
        (
            bounce(
                "Transient",
                "MailboxFull",
                jo("5.2.2", "smtp; 552 5.2.2 full"),
            ),
            "bounce jo@example.com s1: smtp; 552 5.2.2 full [4.2.2]",
        ),
        (
            bounce("Transient", "MailboxFull", bare()),
            "bounce jo@example.com s1: 450 4.2.2",
        ),
        (
            bounce("Transient", "General", jo("5.0.0", "")),
            "bounce jo@example.com s1: 5.0.0 [4.0.0]",
        ),
        (
            bounce("Transient", "MessageTooLarge", bare()),
            "bounce jo@example.com s1: 552 5.3.4",
        ),
        (
            bounce(
                "Transient",
                "ContentRejected",
                jo("", "554 5.7.1 no thanks"),
            ),
            "bounce jo@example.com s1: 554 5.7.1 no thanks",
        ),
        (
            bounce("Undetermined", "Undetermined", bare()),
            "bounce jo@example.com s1: 450",
        ),
        (
            json!({"eventType": "DeliveryDelay", "deliveryDelay": {
                "delayedRecipients": [jo("4.4.1", "smtp; 421 4.4.1 no answer")],
            }}),
            "bounce jo@example.com s1: smtp; 421 4.4.1 no answer",
        ),
        (
            json!({"notificationType": "Delivery", "delivery": {"recipients": ["jo@example.com"]}}),
            "delivered jo@example.com s1",
        ),
        (complaint("abuse"), "complaint jo@example.com s1"),
        (complaint("not-spam"), "ignored not-spam"),
        (json!({"eventType": "Open"}), "engaged sam@example.com s1"),
        (json!({"eventType": "Click"}), "engaged sam@example.com s1"),
        (
            json!({"eventType": "Open", "mail": {
                "destination": ["a@example.com", "b@example.com"],
            }}),
            "ignored Open",
        ),
        (subscription(true), "unsubscribe sam@example.com s1"),
        (subscription(false), "ignored Subscription"),
        (
            json!({"eventType": "Reject", "reject": {"reason": "Bad content"}}),
            "bounce sam@example.com s1: 554 5.6.0 Bad content",
        ),
        (json!({"eventType": "Send"}), "ignored Send"),
        (json!({"eventType": "Teleport"}), "unknown Teleport"),
        (json!({"hello": 1}), "unknown a message without a type"),
        (json!("hello"), "unknown a message that is not from SES"),
    ] {
        let message = match &message {
            Value::Object(_) => with(
                &json!({"mail": {"messageId": "s1", "destination": ["sam@example.com"]}}),
                &message,
            )
            .to_string(),
            other => other.to_string(),
        };
        let envelope = json!({"Type": "Notification", "MessageId": "n1", "Message": message});
        assert_eq!(
            read_in_short(Service::Ses, &envelope.to_string()),
            [expected],
            "{message}"
        );
    }
    let two = bounce("Permanent", "General", bare());
    let two = with(
        &two,
        &json!({"bounce": {
            "bounceType": "Permanent",
            "bouncedRecipients": [bare(), {"emailAddress": "sam@example.com"}],
        }}),
    );
    let envelope = json!({"MessageId": "n1", "Message": two.to_string()});
    let events = read(
        Service::Ses,
        &Hook::default(),
        &HeaderMap::new(),
        envelope.to_string().as_bytes(),
    )
    .unwrap();
    let ids: Vec<_> = events.iter().map(|event| event.id.as_deref()).collect();
    assert_eq!(
        ids,
        [Some("n1 0"), Some("n1 1")],
        "each recipient of one notification is an event of its own"
    );
}
