//! Amazon SES: reads its notifications, both of identity feedback (`notificationType`) and of a
//! configuration set (`eventType`). `sns` verifies them (docs.aws.amazon.com/ses, "Contents of
//! Amazon SNS notifications" and "Examples of event data").

use std::sync::Arc;

use async_trait::async_trait;
use axum::http::HeaderMap;
use config::hooks::Hook;
use domain::clock::Timestamp;
use domain::fact::FactKind;
use serde_json::Value;

use super::draft::{Draft, SeverityHint, deferral, occurred};
use super::event::{Event, EventMeaning};
use super::fetch::Fetch;
use super::mail_service::MailService;
use super::request::{Denied, Verified, WebhookRequest};
use super::sns::Sns;
use crate::intake::foreign_json;

#[derive(Debug)]
pub(super) struct Ses {
    sns: Sns,
}

impl Ses {
    /// Requests to SNS go through `fetch`.
    pub(super) fn new(fetch: Arc<dyn Fetch>) -> Self {
        Self {
            sns: Sns::new(fetch),
        }
    }
}

#[async_trait]
impl MailService for Ses {
    async fn verify(
        &self,
        hook: &Hook,
        request: &WebhookRequest<'_>,
        now: Timestamp,
    ) -> Result<Verified, Denied> {
        self.sns.verify(hook, request, now).await
    }

    /// Reads the events of an SNS message: one event for each recipient that it names.
    fn read(&self, hook: &Hook, _: &HeaderMap, body: &[u8]) -> Result<Vec<Event>, String> {
        let envelope: Value =
            serde_json::from_slice(body).map_err(|err| format!("the body is not JSON: {err}"))?;
        let message = envelope["Message"]
            .as_str()
            .ok_or("the notification has no Message")?;
        // Not from SES: for example, SNS itself reports that a topic works.
        let Ok(message @ Value::Object(_)) = foreign_json::read(message.as_bytes()) else {
            return Ok(vec![Event {
                id: None,
                meaning: EventMeaning::Unknown("a message that is not from SES".to_owned()),
            }]);
        };
        let events = read_message(hook, &message);
        let Some(id) = envelope["MessageId"].as_str() else {
            return Ok(events);
        };
        let with_id = |(n, event): (usize, Event)| Event {
            id: Some(format!("{id} {n}")),
            ..event
        };
        Ok(events.into_iter().enumerate().map(with_id).collect())
    }
}

fn read_message(hook: &Hook, message: &Value) -> Vec<Event> {
    let mail = &message["mail"];
    let kind = message["eventType"]
        .as_str()
        .or(message["notificationType"].as_str())
        .unwrap_or_default();
    let about = |part: &'static str| Draft {
        occurred: occurred(&[&message[part]["timestamp"], &mail["timestamp"]]),
        message_id: mail["messageId"].as_str(),
        metadata: mail["tags"].as_object(),
        ..Draft::default()
    };
    let meaning = match kind {
        "Bounce" => return read_bounces(hook, &about("bounce"), &message["bounce"]),
        "DeliveryDelay" => {
            let delayed = items(&message["deliveryDelay"]["delayedRecipients"]);
            let read_one = |one: &Value| {
                deferral(
                    hook,
                    for_recipient(one, &about("deliveryDelay")).bounce(
                        hook,
                        &reply(one),
                        SeverityHint::Soft("450"),
                    ),
                    "DeliveryDelay",
                )
            };
            return delayed.iter().map(read_one).map(without_id).collect();
        }
        "Complaint" if message["complaint"]["complaintFeedbackType"] == "not-spam" => {
            EventMeaning::Ignored("not-spam")
        }
        "Complaint" => {
            let complained = items(&message["complaint"]["complainedRecipients"]);
            let read_one = |one: &Value| {
                for_recipient(one, &about("complaint")).fact(hook, FactKind::Complaint)
            };
            return complained.iter().map(read_one).map(without_id).collect();
        }
        "Delivery" => {
            let delivered = items(&message["delivery"]["recipients"]);
            let read_one = |one: &Value| {
                Draft {
                    recipient: one.as_str(),
                    ..about("delivery")
                }
                .fact(hook, FactKind::Delivered)
            };
            return delivered.iter().map(read_one).map(without_id).collect();
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
                None => EventMeaning::Ignored("Subscription"),
            }
        }
        "Reject" => {
            let reason = message["reject"]["reason"].as_str().unwrap_or_default();
            let reply = format!("554 5.6.0 {reason}");
            let read_one = |one: &Value| {
                Draft {
                    recipient: one.as_str(),
                    ..about("reject")
                }
                .bounce(hook, &reply, SeverityHint::AsReply("554 5.6.0"))
            };
            return items(&mail["destination"])
                .iter()
                .map(read_one)
                .map(without_id)
                .collect();
        }
        "Send" => EventMeaning::Ignored("Send"),
        "Rendering Failure" => EventMeaning::Ignored("Rendering Failure"),
        "AmazonSnsSubscriptionSucceeded" => EventMeaning::Ignored("AmazonSnsSubscriptionSucceeded"),
        "" => EventMeaning::Unknown("a message without a type".to_owned()),
        other => EventMeaning::Unknown(other.to_owned()),
    };
    vec![without_id(meaning)]
}

/// Reads bounces by the type and subtype that SES gives. SES reports a transient bounce only after
/// trying for hours.
fn read_bounces(hook: &Hook, draft: &Draft<'_>, bounce: &Value) -> Vec<Event> {
    let (kind, subtype) = (
        bounce["bounceType"].as_str(),
        bounce["bounceSubType"].as_str(),
    );
    let hint = match (kind, subtype) {
        (Some("Transient"), Some("MailboxFull")) => SeverityHint::Soft("450 4.2.2"),
        // SES calls these transient, but this message will never be accepted.
        (Some("Transient"), Some("MessageTooLarge")) => SeverityHint::NotAddress("552 5.3.4"),
        (Some("Transient"), Some("ContentRejected" | "AttachmentRejected")) => {
            SeverityHint::NotAddress("554 5.6.0")
        }
        (Some("Transient"), _) => SeverityHint::Soft("450"),
        (Some("Undetermined"), _) => SeverityHint::AsReply("450"),
        (_, Some("UnsubscribedRecipient")) => {
            let read_one =
                |one: &Value| for_recipient(one, draft).fact(hook, FactKind::Unsubscribe);
            return items(&bounce["bouncedRecipients"])
                .iter()
                .map(read_one)
                .map(without_id)
                .collect();
        }
        _ => SeverityHint::AsReply("550 5.1.1"),
    };
    let read_one = |one: &Value| for_recipient(one, draft).bounce(hook, &reply(one), hint);
    items(&bounce["bouncedRecipients"])
        .iter()
        .map(read_one)
        .map(without_id)
        .collect()
}

/// Reads an open or a click. Its recipient is known only if the mail went to a single address.
fn read_engaged(hook: &Hook, draft: &Draft<'_>, mail: &Value, kind: &'static str) -> EventMeaning {
    match only_recipient(mail) {
        Some(recipient) => Draft {
            recipient: Some(recipient),
            ..draft.clone()
        }
        .fact(hook, FactKind::Engaged),
        None => EventMeaning::Ignored(kind),
    }
}

fn only_recipient(mail: &Value) -> Option<&str> {
    match items(&mail["destination"]) {
        [one] => one.as_str(),
        _ => None,
    }
}

/// Returns the draft with the recipient that this item names.
fn for_recipient<'e>(one: &'e Value, draft: &Draft<'e>) -> Draft<'e> {
    Draft {
        recipient: one["emailAddress"].as_str(),
        ..draft.clone()
    }
}

/// Returns the reply of the receiving server, or the status alone if there is no reply.
fn reply(one: &Value) -> String {
    let reply = one["diagnosticCode"].as_str().unwrap_or_default();
    let status = one["status"].as_str().unwrap_or_default();
    if reply.is_empty() {
        status.to_owned()
    } else {
        reply.to_owned()
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn without_id(meaning: EventMeaning) -> Event {
    Event { id: None, meaning }
}
