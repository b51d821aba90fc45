//! KumoMTA's log hooks: log records as JSON, verified by a bearer token. A body is one record, an
//! array, or one record per line (docs.kumomta.com, "Log Record").

use async_trait::async_trait;
use axum::http::HeaderMap;
use config::hooks::Hook;
use domain::clock::Timestamp;
use domain::fact::FactKind;
use serde_json::Value;

use super::authentication::verify_bearer;
use super::draft::{Draft, SeverityHint, deferral, instant, read_json, text};
use super::event::{Event, EventMeaning};
use super::mail_service::MailService;
use super::request::{Denied, Verified, WebhookRequest};
use crate::intake::maillog::kumomta::message_id;

pub(super) struct KumoMta;

#[async_trait]
impl MailService for KumoMta {
    async fn verify(
        &self,
        hook: &Hook,
        request: &WebhookRequest<'_>,
        _: Timestamp,
    ) -> Result<Verified, Denied> {
        verify_bearer(hook, request)
    }

    fn read(&self, hook: &Hook, _: &HeaderMap, body: &[u8]) -> Result<Vec<Event>, String> {
        let records = read_json(body).or_else(|why| read_lines(body).ok_or(why))?;
        Ok(records
            .iter()
            .flat_map(|record| read_record(hook, record))
            .collect())
    }
}

fn read_lines(body: &[u8]) -> Option<Vec<Value>> {
    let text = std::str::from_utf8(body).ok()?;
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Reads one record. Returns one event for each of its recipients.
fn read_record(hook: &Hook, record: &Value) -> Vec<Event> {
    let kind = record["type"].as_str().unwrap_or_default();
    let recipients = match (kind, &record["recipient"]) {
        // The report names the address that the complaint is about. The recipient of the record is
        // the address to which complaints are sent.
        ("Feedback", _) => texts(&record["feedback_report"]["original_rcpt_to"]),
        (_, recipient) => texts(recipient),
    };
    if recipients.is_empty() {
        return vec![Event {
            id: None,
            meaning: read_for(hook, record, kind, None),
        }];
    }
    let when = text(&record["timestamp"]).unwrap_or_default();
    let tries = text(&record["num_attempts"]).unwrap_or_default();
    let spool_id = record["id"].as_str().unwrap_or_default();
    let id = |recipient| Some(format!("{spool_id} {kind} {when} {tries} {recipient}"));
    recipients
        .into_iter()
        .map(|recipient| Event {
            id: id(recipient),
            meaning: read_for(hook, record, kind, Some(recipient)),
        })
        .collect()
}

fn read_for(hook: &Hook, record: &Value, kind: &str, recipient: Option<&str>) -> EventMeaning {
    let draft = Draft {
        recipient,
        occurred: instant(&record["event_time"]).or_else(|| instant(&record["timestamp"])),
        message_id: message_id(&record["headers"], record["id"].as_str()),
        remote_mta: record["peer_address"]["name"].as_str(),
        metadata: record["meta"].as_object(),
    };
    let reply = reply(&record["response"]);
    match kind {
        "Delivery" => draft.fact(hook, FactKind::Delivered),
        "Bounce" => draft.bounce(hook, &reply, SeverityHint::AsReply("550")),
        "TransientFailure" => deferral(
            hook,
            draft.bounce(hook, &reply, SeverityHint::Soft("450")),
            "TransientFailure",
        ),
        // KumoMTA gave up after the longest time allowed. The last reply need not be the reason.
        "Expiration" => draft.bounce(hook, &reply, SeverityHint::Soft("450 4.4.7")),
        "OOB" => draft.bounce(hook, &reply, SeverityHint::AsReply("450")),
        "Feedback" if record["feedback_report"]["feedback_type"] == "not-spam" => {
            EventMeaning::Ignored("not-spam")
        }
        "Feedback" => draft.fact(hook, FactKind::Complaint),
        "Reception" => EventMeaning::Ignored("Reception"),
        "Delayed" => EventMeaning::Ignored("Delayed"),
        "AdminBounce" => EventMeaning::Ignored("AdminBounce"),
        "Rejection" => EventMeaning::Ignored("Rejection"),
        "AdminRebind" | "DeferredInjectionRebind" | "XferOut" | "XferIn" => {
            EventMeaning::Ignored("a move between queues")
        }
        "" => EventMeaning::Unknown("a record without a type".to_owned()),
        other => EventMeaning::Unknown(other.to_owned()),
    }
}

/// Returns the reply as one line: code, enhanced status, text.
fn reply(response: &Value) -> String {
    let code = response["code"]
        .as_u64()
        .filter(|code| (200..600).contains(code));
    let part = |key: &str| response["enhanced_code"][key].as_u64();
    let status = match (part("class"), part("subject"), part("detail")) {
        (Some(class), Some(subject), Some(detail)) => Some(format!("{class}.{subject}.{detail}")),
        _ => None,
    };
    let text = response["content"].as_str().unwrap_or_default();
    let code = code.map(|code| code.to_string());
    let parts = [code.as_deref(), status.as_deref(), Some(text)];
    parts
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Returns the texts of a value that is one text or an array of texts.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) if !text.is_empty() => vec![text],
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}
