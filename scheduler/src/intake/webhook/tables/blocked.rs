//! Events by which a service reports that the sender or the message was refused. They retire an
//! address only if the reply names a dead mailbox.

use axum::http::HeaderMap;
use config::hooks::{Hook, Service};
use domain::clock::Timestamp;
use domain::standing::Standing;
use policy::row::Row;
use policy::table::Table;
use serde_json::{Value, json};

use crate::intake::json::read_reported;
use crate::intake::webhook::event::EventMeaning;
use crate::intake::webhook::read;

/// All such types, as events with this reply.
fn refused(reply: &str) -> Vec<(Service, Value)> {
    let jo = "jo@example.com";
    let sendgrid = |kind: &str, class: &str| {
        json!([{"event": "bounce", "type": kind, "bounce_classification": class,
            "email": jo, "reason": reply}])
    };
    let mut events = vec![
        (Service::SendGrid, sendgrid("blocked", "Unclassified")),
        (Service::SendGrid, sendgrid("bounce", "Reputation")),
        (Service::SendGrid, sendgrid("bounce", "Content")),
        (
            Service::SendGrid,
            sendgrid("bounce", "Frequency or Volume Too High"),
        ),
        (
            Service::Mailgun,
            json!({"event-data": {"event": "failed", "severity": "permanent",
                "reason": "espblock", "recipient": jo,
                "delivery-status": {"message": reply}}}),
        ),
    ];
    for kind in [
        "Blocked",
        "ISPBlocked",
        "SpamNotification",
        "DMARCPolicy",
        "VirusNotification",
        "SMTPApiError",
        "TemplateRenderingFailed",
    ] {
        let record = json!({"RecordType": "Bounce", "Type": kind, "Email": jo, "Details": reply});
        events.push((Service::Postmark, record));
    }
    for class in ["23", "25", "26", "50", "51", "52", "53", "54"] {
        let event = json!({"type": "bounce", "bounce_class": class, "rcpt_to": jo,
            "raw_reason": reply});
        events.push((
            Service::SparkPost,
            json!([{"msys": {"message_event": event}}]),
        ));
    }
    for subtype in ["MessageTooLarge", "ContentRejected", "AttachmentRejected"] {
        let message = json!({"notificationType": "Bounce", "mail": {}, "bounce": {
            "bounceType": "Transient", "bounceSubType": subtype,
            "bouncedRecipients": [{"emailAddress": jo, "diagnosticCode": reply}]}});
        events.push((Service::Ses, json!({"Message": message.to_string()})));
    }
    for class in ["SpamBlock", "SpamContent", "PolicyRelated", "VirusDetected"] {
        let record = json!({"type": "Bounce", "recipient": jo, "bounce_classification": class,
            "response": {"code": 550, "content": reply}});
        events.push((Service::KumoMta, record));
    }
    events
}

/// Returns the row of the policy for a bounce.
fn row<'t>(table: &'t Table, service: Service, event: &Value) -> &'t Row {
    let body = event.to_string();
    let events = read(
        service,
        &Hook::default(),
        &HeaderMap::new(),
        body.as_bytes(),
    );
    let EventMeaning::Bounce(item) = events.unwrap().remove(0).meaning else {
        panic!("{body} is no bounce")
    };
    let bounce = read_reported(item, Timestamp::from_ms(0)).unwrap();
    table.row(&bounce.reply, "default", None, "example.com")
}

/// Whether a bounce of this row retires the address at once.
fn retires(row: &Row) -> bool {
    row.delays.is_empty() && row.end.standing() != Standing::Active
}

#[test]
fn a_block_alone_retires_no_address() {
    let table = Table::embedded();
    for reply in [
        "",
        "550",
        "550 Requested action not taken",
        "550 5.0.0 permanent failure",
        "554 Message could not be delivered",
        "550 5.7.1 our filters say no",
        "552 5.2.2 mailbox full",
        "rejected by the provider",
    ] {
        for (service, event) in refused(reply) {
            let row = row(&table, service, &event);
            assert!(!retires(row), "{}: {event}", row.name);
        }
    }
}

#[test]
fn a_reply_that_names_a_dead_mailbox_retires_the_address_whatever_the_service_calls_it() {
    let table = Table::embedded();
    for reply in [
        "550 5.1.1 <jo@example.com>: user unknown",
        "550 no such user here",
    ] {
        for (service, event) in refused(reply) {
            let row = row(&table, service, &event);
            assert!(retires(row), "{}: {event}", row.name);
        }
    }
}
