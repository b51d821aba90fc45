//! KumoMTA's log hooks: log records as JSON, verified by a bearer token. A body is one record, an
//! array, or one record per line (docs.kumomta.com, "Log Record"). The records of its log files are
//! read here too.

use async_trait::async_trait;
use axum::http::HeaderMap;
use config::hooks::Hook;
use domain::clock::Timestamp;
use domain::fact::FactKind;
use domain::reply::Reply;
use domain::reply::stage::Stage;
use serde_json::{Map, Value};

use super::authentication::verify_bearer;
use super::draft::{Draft, SeverityHint, deferral, occurred, read_each, read_or_refuse, text};
use super::event::{Event, EventMeaning};
use super::mail_service::MailService;
use super::request::{Denied, Verified, WebhookRequest};
use crate::intake::foreign_json;
use crate::intake::json::TEXT_MAX;

/// The classes of KumoMTA's classifier that are about the sender or the message.
const NOT_ABOUT_ADDRESS: [&str; 7] = [
    "AuthenticationFailed",
    "ContentRelated",
    "PolicyRelated",
    "RelayDenied",
    "SpamBlock",
    "SpamContent",
    "VirusDetected",
];

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
        let read = |record: &Value| read_record(hook, record);
        read_each(body, read).or_else(|why| {
            let lines = read_lines(body).ok_or(why)?;
            Ok(lines
                .into_iter()
                .flat_map(|record| read_or_refuse(record, read))
                .collect())
        })
    }
}

/// Reads one record per line. Returns `None` if no line can be read.
fn read_lines(body: &[u8]) -> Option<Vec<Result<Value, String>>> {
    let lines: Vec<Result<Value, String>> = foreign_json::without_mark(body)
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty())
        .map(|line| foreign_json::read(line).map_err(|err| format!("it is not JSON: {err}")))
        .collect();
    lines.iter().any(Result::is_ok).then_some(lines)
}

/// Reads one record. Returns one event for each of its recipients.
pub(in crate::intake) fn read_record(hook: &Hook, record: &Value) -> Vec<Event> {
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
    let metadata = metadata(record);
    let peer = record["peer_address"]["name"].as_str();
    let draft = Draft {
        recipient,
        occurred: occurred(&[&record["event_time"], &record["timestamp"]]),
        message_id: message_id(&record["headers"], record["id"].as_str()),
        envelope_from: record["sender"].as_str(),
        remote_mta: peer.map(|name| name.trim_end_matches('.')),
        metadata: Some(&metadata),
    };
    let reply = reply(&record["response"]);
    match kind {
        "Delivery" => draft.fact(hook, FactKind::Delivered),
        "Bounce" if is_not_about_address(record) => {
            draft.bounce(hook, &reply, SeverityHint::NotAddress("554 5.7.1"))
        }
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

/// Whether KumoMTA's own classifier, if it is set up, has found that the sender or the message was
/// refused.
fn is_not_about_address(record: &Value) -> bool {
    let class = record["bounce_classification"].as_str();
    class.is_some_and(|class| NOT_ABOUT_ADDRESS.contains(&class))
}

/// Returns the id of a message. It is the Message-ID if that header is logged, because reports and
/// the platform know it too. Otherwise it is the id in KumoMTA's spool.
fn message_id<'r>(headers: &'r Value, spool_id: Option<&'r str>) -> Option<&'r str> {
    let mut named = headers.as_object().into_iter().flatten();
    let header = named
        .find(|(name, _)| name.eq_ignore_ascii_case("message-id"))
        .and_then(|(_, value)| value.as_str());
    // An id that was not valid UTF-8 is no use: after the replacement of its bytes, other messages
    // could have the same id.
    [header, spool_id].into_iter().flatten().find(|id| {
        (1..=TEXT_MAX).contains(&id.len())
            && !id.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER)
    })
}

/// Returns the message's own metadata in KumoMTA, and the name of its queue.
fn metadata(record: &Value) -> Map<String, Value> {
    let mut metadata = record["meta"].as_object().cloned().unwrap_or_default();
    if let Some(queue) = record["queue"].as_str().filter(|queue| !queue.is_empty()) {
        metadata
            .entry("queue")
            .or_insert_with(|| Value::from(queue));
    }
    metadata
}

/// Returns the reply as one line, with the stage that it answered: code, enhanced status, text.
fn reply(response: &Value) -> String {
    let line = reply_line(response);
    let command = response["command"].as_str().unwrap_or_default();
    match Stage::of_command(command) {
        Some(stage) if !line.is_empty() => Reply::parse(&line).in_reply_to(stage).to_string(),
        _ => line,
    }
}

fn reply_line(response: &Value) -> String {
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
