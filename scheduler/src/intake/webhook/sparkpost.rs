//! SparkPost's event webhook: an array of wrapped events, verified by basic authentication
//! (developers.sparkpost.com, "Event webhooks" and "Bounce classification codes").

use async_trait::async_trait;
use axum::http::HeaderMap;
use config::hooks::Hook;
use domain::clock::Timestamp;
use domain::fact::FactKind;
use serde_json::Value;

use super::authentication::verify_basic;
use super::draft::{Draft, SeverityHint, deferral, occurred, read_each, text};
use super::event::{Event, EventMeaning};
use super::mail_service::MailService;
use super::request::{Denied, Verified, WebhookRequest};

pub(super) struct SparkPost;

#[async_trait]
impl MailService for SparkPost {
    async fn verify(
        &self,
        hook: &Hook,
        request: &WebhookRequest<'_>,
        _: Timestamp,
    ) -> Result<Verified, Denied> {
        verify_basic(hook, request)
    }

    fn read(&self, hook: &Hook, _: &HeaderMap, body: &[u8]) -> Result<Vec<Event>, String> {
        read_each(body, |event| vec![read_wrapped(hook, event)])
    }
}

fn read_wrapped(hook: &Hook, wrapped: &Value) -> Event {
    match wrapped["msys"].as_object() {
        // SparkPost sends an empty object when the webhook is created.
        Some(msys) if msys.is_empty() => Event {
            id: None,
            meaning: EventMeaning::Ignored("a test"),
        },
        Some(msys) => msys
            .values()
            .next()
            .map_or_else(unknown, |event| read_event(hook, event)),
        None => unknown(),
    }
}

fn unknown() -> Event {
    Event {
        id: None,
        meaning: EventMeaning::Unknown("an event without msys".to_owned()),
    }
}

fn read_event(hook: &Hook, event: &Value) -> Event {
    let field = |key: &str| event[key].as_str().filter(|text| !text.is_empty());
    let transmission = text(&event["transmission_id"]).or_else(|| text(&event["message_id"]));
    let draft = Draft {
        recipient: field("raw_rcpt_to").or(field("rcpt_to")),
        occurred: occurred(&[&event["timestamp"]]),
        message_id: transmission.as_deref(),
        metadata: event["rcpt_meta"].as_object(),
        ..Draft::default()
    };
    let meaning = match field("type") {
        Some("delivery") => draft.fact(hook, FactKind::Delivered),
        Some("open" | "initial_open" | "amp_open" | "amp_initial_open" | "click" | "amp_click") => {
            draft.fact(hook, FactKind::Engaged)
        }
        Some("spam_complaint") => draft.fact(hook, FactKind::Complaint),
        Some("list_unsubscribe" | "link_unsubscribe") => draft.fact(hook, FactKind::Unsubscribe),
        Some("bounce" | "out_of_band") => read_bounce(hook, &draft, event),
        Some("delay") => deferral(
            hook,
            draft.bounce(hook, &reply(event), SeverityHint::Soft("450")),
            "delay",
        ),
        Some("policy_rejection" | "generation_failure" | "generation_rejection") => {
            draft.bounce(hook, &reply(event), SeverityHint::NotAddress("554 5.7.0"))
        }
        Some("injection") => EventMeaning::Ignored("injection"),
        Some("sms_status" | "ab_test_completed" | "ab_test_cancelled" | "success" | "error") => {
            EventMeaning::Ignored("an event of no message")
        }
        Some(kind) if kind.starts_with("relay_") => EventMeaning::Ignored("an inbound message"),
        other => EventMeaning::Unknown(other.unwrap_or("an event without a type").to_owned()),
    };
    Event {
        id: text(&event["event_id"]),
        meaning,
    }
}

/// Reads a bounce by the class that SparkPost gives.
fn read_bounce(hook: &Hook, draft: &Draft<'_>, event: &Value) -> EventMeaning {
    let bounce = |hint| draft.bounce(hook, &reply(event), hint);
    match text(&event["bounce_class"]).as_deref() {
        Some("10" | "30") => bounce(SeverityHint::AsReply("550 5.1.1")),
        Some("20" | "21" | "22" | "24" | "70") => bounce(SeverityHint::Soft("450")),
        Some("23") => bounce(SeverityHint::NotAddress("552 5.3.4")),
        Some("25" | "26" | "50" | "51" | "52" | "53" | "54") => {
            bounce(SeverityHint::NotAddress("554 5.7.1"))
        }
        Some("60" | "80" | "100") => EventMeaning::Ignored("an automatic reply"),
        Some("90") => draft.fact(hook, FactKind::Unsubscribe),
        _ => bounce(SeverityHint::AsReply("450")),
    }
}

/// Returns the reply of the server. Prefers the raw text, because addresses are removed from the
/// other.
fn reply(event: &Value) -> String {
    let reason = event["raw_reason"]
        .as_str()
        .or(event["reason"].as_str())
        .unwrap_or_default();
    match text(&event["error_code"]).filter(|code| code.len() == 3) {
        Some(code)
            if !reason
                .trim_start()
                .starts_with(|c: char| c.is_ascii_digit()) =>
        {
            format!("{code} {reason}")
        }
        _ => reason.to_owned(),
    }
}
