//! Amazon SES: what a notification says, whether it is of identity feedback (`notificationType`) or
//! of a configuration set (`eventType`). How it comes and proves itself is SNS's business
//! (docs.aws.amazon.com/ses, "Contents of Amazon SNS notifications" and "Examples of event data").

use config::hooks::Hook;
use domain::fact::FactKind;
use serde_json::Value;

use super::draft::{Draft, SeverityHint, deferral, instant};
use super::{Event, Said};

/// Reads the events of an SNS message: one for each recipient that it names.
pub(super) fn read(hook: &Hook, body: &[u8]) -> Result<Vec<Event>, String> {
    let envelope: Value =
        serde_json::from_slice(body).map_err(|err| format!("the body is not JSON: {err}"))?;
    let message = envelope["Message"]
        .as_str()
        .ok_or("the notification has no Message")?;
    // Not from SES: SNS says of itself that a topic works, say.
    let Ok(message @ Value::Object(_)) = serde_json::from_str::<Value>(message) else {
        return Ok(vec![Event {
            id: None,
            said: Said::Unknown("a message that is not from SES".to_owned()),
        }]);
    };
    let told = read_message(hook, &message);
    let Some(id) = envelope["MessageId"].as_str() else {
        return Ok(told);
    };
    let name = |(n, event): (usize, Event)| Event {
        id: Some(format!("{id} {n}")),
        ..event
    };
    Ok(told.into_iter().enumerate().map(name).collect())
}

fn read_message(hook: &Hook, message: &Value) -> Vec<Event> {
    let mail = &message["mail"];
    let kind = message["eventType"]
        .as_str()
        .or(message["notificationType"].as_str())
        .unwrap_or_default();
    let about = |part: &'static str| {
        let occurred = instant(&message[part]["timestamp"]).or_else(|| instant(&mail["timestamp"]));
        Draft {
            occurred,
            message_id: mail["messageId"].as_str(),
            metadata: mail["tags"].as_object(),
            ..Draft::default()
        }
    };
    let said = match kind {
        "Bounce" => return read_bounces(hook, &about("bounce"), &message["bounce"]),
        "DeliveryDelay" => {
            let delayed = items(&message["deliveryDelay"]["delayedRecipients"]);
            let said = |one: &Value| {
                deferral(
                    hook,
                    of(one, &about("deliveryDelay")).bounce(
                        hook,
                        &reply(one),
                        SeverityHint::Soft("450"),
                    ),
                    "DeliveryDelay",
                )
            };
            return delayed.iter().map(said).map(plain).collect();
        }
        "Complaint" if message["complaint"]["complaintFeedbackType"] == "not-spam" => {
            Said::Ignored("not-spam")
        }
        "Complaint" => {
            let complained = items(&message["complaint"]["complainedRecipients"]);
            let said = |one: &Value| of(one, &about("complaint")).fact(hook, FactKind::Complaint);
            return complained.iter().map(said).map(plain).collect();
        }
        "Delivery" => {
            let delivered = items(&message["delivery"]["recipients"]);
            let said = |one: &Value| {
                Draft {
                    recipient: one.as_str(),
                    ..about("delivery")
                }
                .fact(hook, FactKind::Delivered)
            };
            return delivered.iter().map(said).map(plain).collect();
        }
        "Open" => read_engaged(hook, &about("open"), mail, "Open"),
        "Click" => read_engaged(hook, &about("click"), mail, "Click"),
        "Subscription" => {
            let all = message["subscription"]["newTopicPreferences"]["unsubscribeAll"] == true;
            match only_recipient(mail).filter(|_| all) {
                Some(to) => Draft {
                    recipient: Some(to),
                    ..about("subscription")
                }
                .fact(hook, FactKind::Unsubscribe),
                None => Said::Ignored("Subscription"),
            }
        }
        "Reject" => {
            let reason = message["reject"]["reason"].as_str().unwrap_or_default();
            let reply = format!("554 5.6.0 {reason}");
            let said = |one: &Value| {
                Draft {
                    recipient: one.as_str(),
                    ..about("reject")
                }
                .bounce(hook, &reply, SeverityHint::AsSaid("554 5.6.0"))
            };
            return items(&mail["destination"])
                .iter()
                .map(said)
                .map(plain)
                .collect();
        }
        "Send" => Said::Ignored("Send"),
        "Rendering Failure" => Said::Ignored("Rendering Failure"),
        "AmazonSnsSubscriptionSucceeded" => Said::Ignored("AmazonSnsSubscriptionSucceeded"),
        "" => Said::Unknown("a message without a type".to_owned()),
        other => Said::Unknown(other.to_owned()),
    };
    vec![plain(said)]
}

/// A bounce by the type and subtype that SES found. A transient one has been tried by SES for hours
/// already.
fn read_bounces(hook: &Hook, draft: &Draft<'_>, bounce: &Value) -> Vec<Event> {
    let (kind, subtype) = (
        bounce["bounceType"].as_str(),
        bounce["bounceSubType"].as_str(),
    );
    let hint = match (kind, subtype) {
        (Some("Transient"), Some("MailboxFull")) => SeverityHint::Soft("450 4.2.2"),
        // These say that the message will never do.
        (Some("Transient"), Some("MessageTooLarge")) => SeverityHint::AsSaid("552 5.3.4"),
        (Some("Transient"), Some("ContentRejected" | "AttachmentRejected")) => {
            SeverityHint::AsSaid("554 5.6.0")
        }
        (Some("Transient"), _) => SeverityHint::Soft("450"),
        (Some("Undetermined"), _) => SeverityHint::AsSaid("450"),
        (_, Some("UnsubscribedRecipient")) => {
            let said = |one: &Value| of(one, draft).fact(hook, FactKind::Unsubscribe);
            return items(&bounce["bouncedRecipients"])
                .iter()
                .map(said)
                .map(plain)
                .collect();
        }
        _ => SeverityHint::AsSaid("550 5.1.1"),
    };
    let said = |one: &Value| of(one, draft).bounce(hook, &reply(one), hint);
    items(&bounce["bouncedRecipients"])
        .iter()
        .map(said)
        .map(plain)
        .collect()
}

/// Who opens or clicks is known only where the mail went to one address.
fn read_engaged(hook: &Hook, draft: &Draft<'_>, mail: &Value, kind: &'static str) -> Said {
    match only_recipient(mail) {
        Some(recipient) => Draft {
            recipient: Some(recipient),
            ..draft.clone()
        }
        .fact(hook, FactKind::Engaged),
        None => Said::Ignored(kind),
    }
}

fn only_recipient(mail: &Value) -> Option<&str> {
    match items(&mail["destination"]) {
        [one] => one.as_str(),
        _ => None,
    }
}

fn of<'e>(one: &'e Value, draft: &Draft<'e>) -> Draft<'e> {
    Draft {
        recipient: one["emailAddress"].as_str(),
        ..draft.clone()
    }
}

/// What the receiving server said; the status alone where that is all there is.
fn reply(one: &Value) -> String {
    let said = one["diagnosticCode"].as_str().unwrap_or_default();
    let status = one["status"].as_str().unwrap_or_default();
    if said.is_empty() {
        status.to_owned()
    } else {
        said.to_owned()
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn plain(said: Said) -> Event {
    Event { id: None, said }
}
