//! What each service's events mean, as tables: an event as the service would send it, and what is made of it, in short.

use axum::http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};
use shared::config::{Hook, Service};

use super::{Event, Said, read};

/// An event in short: `bounce jo@example.com m1: 550 5.1.1 nobody`, with the status that goes before the reply's in brackets.
fn short(event: &Event) -> String {
    let about = |item: &Value| {
        let word = |key: &str| item[key].as_str().unwrap_or("-").to_owned();
        format!("{} {}", word("recipient"), word("message_id"))
    };
    match &event.said {
        Said::Bounce(item) => {
            let status = item["status"].as_str().map(|status| format!(" [{status}]")).unwrap_or_default();
            format!("bounce {}: {}{status}", about(item), item["reply"].as_str().unwrap_or("-"))
        }
        Said::Fact(item) => format!("{} {}", item["type"].as_str().unwrap_or("-"), about(item)),
        Said::Ignored(kind) => format!("ignored {kind}"),
        Said::Unknown(kind) => format!("unknown {kind}"),
    }
}

fn tell(service: Service, body: &str) -> Vec<String> {
    let json = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let events = read(service, &Hook::default(), &json, body.as_bytes()).unwrap_or_else(|why| panic!("{body}: {why}"));
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
fn ses_events_mean() {
    let bounce = |kind: &str, subtype: &str, recipient: Value| json!({"eventType": "Bounce", "bounce": {"bounceType": kind, "bounceSubType": subtype, "bouncedRecipients": [recipient]}});
    let jo =
        |status: &str, said: &str| json!({"emailAddress": "jo@example.com", "status": status, "diagnosticCode": said});
    let bare = || json!({"emailAddress": "jo@example.com"});
    for (message, expected) in [
        (
            bounce("Permanent", "General", jo("5.1.1", "smtp; 550 5.1.1 no such user")),
            "bounce jo@example.com s1: smtp; 550 5.1.1 no such user",
        ),
        (bounce("Permanent", "NoEmail", bare()), "bounce jo@example.com s1: 550 5.1.1"),
        (bounce("Permanent", "OnAccountSuppressionList", bare()), "bounce jo@example.com s1: 550 5.1.1"),
        (bounce("Permanent", "UnsubscribedRecipient", bare()), "unsubscribe jo@example.com s1"),
        (
            bounce("Transient", "General", jo("4.4.7", "smtp; 554 4.4.7 expired")),
            "bounce jo@example.com s1: smtp; 554 4.4.7 expired",
        ),
        (
            bounce("Transient", "MailboxFull", jo("5.2.2", "smtp; 552 5.2.2 full")),
            "bounce jo@example.com s1: smtp; 552 5.2.2 full [4.2.2]",
        ),
        (bounce("Transient", "MailboxFull", bare()), "bounce jo@example.com s1: 450 4.2.2"),
        (bounce("Transient", "General", jo("5.0.0", "")), "bounce jo@example.com s1: 5.0.0 [4.0.0]"),
        (bounce("Transient", "MessageTooLarge", bare()), "bounce jo@example.com s1: 552 5.3.4"),
        (
            bounce("Transient", "ContentRejected", jo("", "554 5.7.1 no thanks")),
            "bounce jo@example.com s1: 554 5.7.1 no thanks",
        ),
        (bounce("Undetermined", "Undetermined", bare()), "bounce jo@example.com s1: 450"),
        (
            json!({"eventType": "DeliveryDelay", "deliveryDelay": {"delayedRecipients": [jo("4.4.1", "smtp; 421 4.4.1 no answer")]}}),
            "bounce jo@example.com s1: smtp; 421 4.4.1 no answer",
        ),
        (
            json!({"notificationType": "Delivery", "delivery": {"recipients": ["jo@example.com"]}}),
            "delivered jo@example.com s1",
        ),
        (
            json!({"notificationType": "Complaint", "complaint": {"complainedRecipients": [bare()], "complaintFeedbackType": "abuse"}}),
            "complaint jo@example.com s1",
        ),
        (
            json!({"notificationType": "Complaint", "complaint": {"complainedRecipients": [bare()], "complaintFeedbackType": "not-spam"}}),
            "ignored not-spam",
        ),
        (json!({"eventType": "Open"}), "engaged sam@example.com s1"),
        (json!({"eventType": "Click"}), "engaged sam@example.com s1"),
        (json!({"eventType": "Open", "mail": {"destination": ["a@example.com", "b@example.com"]}}), "ignored Open"),
        (
            json!({"eventType": "Subscription", "subscription": {"newTopicPreferences": {"unsubscribeAll": true}}}),
            "unsubscribe sam@example.com s1",
        ),
        (
            json!({"eventType": "Subscription", "subscription": {"newTopicPreferences": {"unsubscribeAll": false}}}),
            "ignored Subscription",
        ),
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
            Value::Object(_) => {
                with(&json!({"mail": {"messageId": "s1", "destination": ["sam@example.com"]}}), &message).to_string()
            }
            other => other.to_string(),
        };
        let envelope = json!({"Type": "Notification", "MessageId": "n1", "Message": message});
        assert_eq!(tell(Service::Ses, &envelope.to_string()), [expected], "{message}");
    }
    let two = bounce("Permanent", "General", bare());
    let two = with(
        &two,
        &json!({"bounce": {"bounceType": "Permanent", "bouncedRecipients": [bare(), {"emailAddress": "sam@example.com"}]}}),
    );
    let envelope = json!({"MessageId": "n1", "Message": two.to_string()});
    let events = read(Service::Ses, &Hook::default(), &HeaderMap::new(), envelope.to_string().as_bytes()).unwrap();
    let ids: Vec<_> = events.iter().map(|event| event.id.as_deref()).collect();
    assert_eq!(ids, [Some("n1 0"), Some("n1 1")], "each recipient of one notification is an event of its own");
}

#[test]
fn sendgrid_events_mean() {
    let base = json!({"email": "jo@example.com", "timestamp": 1_795_262_400, "smtp-id": "<m1@example.org>", "sg_event_id": "e1"});
    for (event, expected) in [
        (json!({"event": "delivered", "response": "250 OK"}), "delivered jo@example.com <m1@example.org>"),
        (json!({"event": "open"}), "engaged jo@example.com <m1@example.org>"),
        (json!({"event": "open", "sg_machine_open": false}), "engaged jo@example.com <m1@example.org>"),
        (json!({"event": "open", "sg_machine_open": true}), "ignored open by a machine"),
        (json!({"event": "click", "url": "https://example.org"}), "engaged jo@example.com <m1@example.org>"),
        (json!({"event": "spamreport"}), "complaint jo@example.com <m1@example.org>"),
        (json!({"event": "unsubscribe"}), "unsubscribe jo@example.com <m1@example.org>"),
        (json!({"event": "group_unsubscribe", "asm_group_id": 7}), "unsubscribe jo@example.com <m1@example.org>"),
        (
            json!({"event": "bounce", "type": "bounce", "status": "5.1.1", "reason": "550 5.1.1 nobody"}),
            "bounce jo@example.com <m1@example.org>: 550 5.1.1 nobody",
        ),
        (
            json!({"event": "bounce", "type": "bounce", "status": "5.0.0", "reason": "550 nobody"}),
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
        (json!({"event": "dropped", "reason": "Unsubscribed Address"}), "unsubscribe jo@example.com <m1@example.org>"),
        (json!({"event": "dropped", "reason": "Spam Reporting Address"}), "complaint jo@example.com <m1@example.org>"),
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
        assert_eq!(tell(Service::SendGrid, &body), [expected], "{event}");
    }
    let own_id = json!([{"event": "open", "email": "jo@example.com", "sg_message_id": "abc.filter01.7.0"}]);
    assert_eq!(tell(Service::SendGrid, &own_id.to_string()), ["engaged jo@example.com abc"]);
}

#[test]
fn mailgun_events_mean() {
    let base = json!({
        "recipient": "jo@example.com", "timestamp": 1_795_262_400.5,
        "message": {"headers": {"message-id": "m1@example.org", "to": "Jo <jo@example.com>"}},
    });
    let failed = |severity: &str, reason: &str, status: Value| json!({"event": "failed", "severity": severity, "reason": reason, "delivery-status": status});
    for (event, expected) in [
        (json!({"event": "delivered"}), "delivered jo@example.com <m1@example.org>"),
        (json!({"event": "opened"}), "engaged jo@example.com <m1@example.org>"),
        (json!({"event": "clicked"}), "engaged jo@example.com <m1@example.org>"),
        (json!({"event": "complained"}), "complaint jo@example.com <m1@example.org>"),
        (json!({"event": "unsubscribed"}), "unsubscribe jo@example.com <m1@example.org>"),
        (
            failed("permanent", "bounce", json!({"code": 550, "enhanced-code": "5.1.1", "message": "nobody"})),
            "bounce jo@example.com <m1@example.org>: 550 5.1.1 nobody",
        ),
        (
            failed("permanent", "bounce", json!({"code": 550, "message": "550 5.1.1 nobody"})),
            "bounce jo@example.com <m1@example.org>: 550 5.1.1 nobody",
        ),
        (
            failed("permanent", "generic", json!({"code": 452, "message": "4.3.1 full", "description": ""})),
            "bounce jo@example.com <m1@example.org>: 452 4.3.1 full",
        ),
        (
            failed("permanent", "suppress-bounce", json!({"code": 605})),
            "bounce jo@example.com <m1@example.org>: 550 5.1.1 bounced before",
        ),
        (failed("permanent", "suppress-complaint", json!({"code": 607})), "complaint jo@example.com <m1@example.org>"),
        (
            failed("permanent", "suppress-unsubscribe", json!({"code": 606})),
            "unsubscribe jo@example.com <m1@example.org>",
        ),
        (
            failed("permanent", "old", json!({"code": 602, "message": "Too old"})),
            "bounce jo@example.com <m1@example.org>: 450 4.4.7 Too old",
        ),
        (
            failed("temporary", "generic", json!({"code": 498, "message": "No MX for example.com"})),
            "bounce jo@example.com <m1@example.org>: 450 No MX for example.com",
        ),
        (
            failed("temporary", "greylisted", json!({"code": 450, "message": "Greylisted"})),
            "bounce jo@example.com <m1@example.org>: 450 Greylisted",
        ),
        (
            failed("temporary", "generic", json!({"code": 552, "enhanced-code": "5.2.2", "message": "full"})),
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
        assert_eq!(tell(Service::Mailgun, &body), [expected], "{event}");
    }
    let form =
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))]);
    for (body, expected) in [
        (
            "event=bounced&recipient=jo%40example.com&code=550&error=5.1.1+nobody&Message-Id=%3Cm1%3E",
            "bounce jo@example.com <m1>: 550 5.1.1 nobody",
        ),
        (
            "event=dropped&recipient=jo%40example.com&code=605&reason=hardfail",
            "bounce jo@example.com -: 550 5.1.1 bounced before",
        ),
        ("event=complained&recipient=jo%40example.com", "complaint jo@example.com -"),
        ("a=b", "unknown an event without a type"),
    ] {
        let events = read(Service::Mailgun, &Hook::default(), &form, body.as_bytes()).unwrap();
        assert_eq!(events.iter().map(short).collect::<Vec<_>>(), [expected], "{body}");
    }
}

#[test]
fn postmark_records_mean() {
    let base = json!({"ID": 7, "MessageID": "m1", "Email": "jo@example.com"});
    let bounce = |kind: &str, details: &str| json!({"RecordType": "Bounce", "Type": kind, "Details": details});
    let change = |suppress: bool, reason: Value| json!({"RecordType": "SubscriptionChange", "SuppressSending": suppress, "SuppressionReason": reason});
    for (record, expected) in [
        (json!({"RecordType": "Delivery"}), "delivered jo@example.com m1"),
        (json!({"RecordType": "Open"}), "engaged jo@example.com m1"),
        (json!({"RecordType": "Click", "Email": null, "Recipient": "sam@example.com"}), "engaged sam@example.com m1"),
        (json!({"RecordType": "SpamComplaint"}), "complaint jo@example.com m1"),
        (bounce("HardBounce", "smtp;550 5.1.1 nobody"), "bounce jo@example.com m1: smtp;550 5.1.1 nobody"),
        (bounce("HardBounce", "nobody"), "bounce jo@example.com m1: 550 5.1.1 nobody"),
        (bounce("SoftBounce", "smtp;552 5.2.2 full"), "bounce jo@example.com m1: smtp;552 5.2.2 full [4.2.2]"),
        (bounce("Transient", "smtp;451 4.3.2 later"), "bounce jo@example.com m1: smtp;451 4.3.2 later"),
        (bounce("DnsError", "no such host"), "bounce jo@example.com m1: 450 4.4.4 no such host"),
        (bounce("Blocked", "listed"), "bounce jo@example.com m1: 554 5.7.1 listed"),
        (bounce("SpamComplaint", ""), "complaint jo@example.com m1"),
        (bounce("Unsubscribe", ""), "unsubscribe jo@example.com m1"),
        (bounce("AutoResponder", "I am away"), "ignored AutoResponder"),
        (bounce("Teleported", ""), "unknown Bounce Teleported"),
        (change(true, json!("HardBounce")), "bounce jo@example.com m1: 550 5.1.1 bounced before"),
        (change(true, json!("SpamComplaint")), "complaint jo@example.com m1"),
        (change(true, json!("ManualSuppression")), "unsubscribe jo@example.com m1"),
        (change(false, json!(null)), "ignored SubscriptionChange to reactivate"),
        (json!({"RecordType": "Teleport"}), "unknown Teleport"),
        (json!({}), "unknown a record without a type"),
    ] {
        assert_eq!(tell(Service::Postmark, &with(&base, &record).to_string()), [expected], "{record}");
    }
}

#[test]
fn sparkpost_events_mean() {
    let base = json!({"rcpt_to": "jo@...", "raw_rcpt_to": "jo@example.com", "transmission_id": "7", "event_id": "e1"});
    let bounce = |class: &str, reason: &str| json!({"type": "bounce", "bounce_class": class, "raw_reason": reason});
    for (event, expected) in [
        (json!({"type": "delivery"}), "delivered jo@example.com 7"),
        (json!({"type": "initial_open"}), "engaged jo@example.com 7"),
        (json!({"type": "amp_click"}), "engaged jo@example.com 7"),
        (json!({"type": "spam_complaint"}), "complaint jo@example.com 7"),
        (json!({"type": "list_unsubscribe"}), "unsubscribe jo@example.com 7"),
        (bounce("10", "550 5.1.1 nobody"), "bounce jo@example.com 7: 550 5.1.1 nobody"),
        (bounce("10", "nobody"), "bounce jo@example.com 7: 550 5.1.1 nobody"),
        (bounce("22", "552 5.2.2 full"), "bounce jo@example.com 7: 552 5.2.2 full [4.2.2]"),
        (bounce("21", "no MX"), "bounce jo@example.com 7: 450 no MX"),
        (bounce("51", "554 listed"), "bounce jo@example.com 7: 554 listed"),
        (bounce("60", "I am away"), "ignored an automatic reply"),
        (bounce("90", ""), "unsubscribe jo@example.com 7"),
        (bounce("1", ""), "bounce jo@example.com 7: 450"),
        (
            json!({"type": "delay", "error_code": "454", "raw_reason": "4.4.4 no MX"}),
            "bounce jo@example.com 7: 4.4.4 no MX",
        ),
        (json!({"type": "delay", "error_code": "454", "reason": "no MX"}), "bounce jo@example.com 7: 454 no MX"),
        (
            json!({"type": "policy_rejection", "raw_reason": "suppressed"}),
            "bounce jo@example.com 7: 554 5.7.0 suppressed",
        ),
        (json!({"type": "injection"}), "ignored injection"),
        (json!({"type": "teleport"}), "unknown teleport"),
    ] {
        let body = json!([{"msys": {"message_event": with(&base, &event)}}]).to_string();
        assert_eq!(tell(Service::SparkPost, &body), [expected], "{event}");
    }
    assert_eq!(
        tell(Service::SparkPost, r#"[{"msys":{}},{"else":1}]"#),
        ["ignored a test", "unknown an event without msys"]
    );
}

#[test]
fn kumomta_records_mean() {
    let base = json!({"id": "k1", "recipient": "jo@example.com", "timestamp": 1_795_262_400, "num_attempts": 3});
    let response = |code: u16, class: u8, subject: u8, detail: u8, text: &str| {
        let status = json!({"class": class, "subject": subject, "detail": detail});
        json!({"code": code, "enhanced_code": status, "content": text})
    };
    for (record, expected) in [
        (json!({"type": "Delivery", "response": response(250, 2, 0, 0, "OK")}), "delivered jo@example.com k1"),
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
        assert_eq!(tell(Service::KumoMta, &with(&base, &record).to_string()), [expected], "{record}");
    }
    let lines =
        "{\"type\":\"Delivery\",\"recipient\":[\"a@example.com\",\"b@example.com\"]}\n\n{\"type\":\"Reception\"}\n";
    assert_eq!(
        tell(Service::KumoMta, lines),
        ["delivered a@example.com -", "delivered b@example.com -", "ignored Reception"]
    );
}

#[test]
fn a_service_that_tries_on_may_be_left_to_it() {
    let left = Hook { deferrals: false, ..Hook::default() };
    for (service, body) in [
        (Service::SendGrid, json!([{"event": "deferred", "email": "jo@example.com", "response": "451 later"}])),
        (
            Service::Mailgun,
            json!({"event-data": {"event": "failed", "severity": "temporary", "recipient": "jo@example.com"}}),
        ),
        (Service::Postmark, json!({"RecordType": "Bounce", "Type": "Transient", "Email": "jo@example.com"})),
        (Service::SparkPost, json!([{"msys": {"message_event": {"type": "delay", "rcpt_to": "jo@example.com"}}}])),
        (Service::KumoMta, json!({"type": "TransientFailure", "recipient": "jo@example.com"})),
    ] {
        for (hook, bounces) in [(&left, 0), (&Hook::default(), 1)] {
            let events = read(service, hook, &HeaderMap::new(), body.to_string().as_bytes()).unwrap();
            let found = events.iter().filter(|event| matches!(event.said, Said::Bounce(_)));
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
            let _ = read(service, &Hook::default(), &HeaderMap::new(), body.as_bytes());
        }
    }
}
