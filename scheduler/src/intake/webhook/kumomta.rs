//! KumoMTA's log hooks: log records as JSON, one, an array, or one a line, proven by a bearer token
//! (docs.kumomta.com, "Log Record").

use config::hooks::Hook;
use domain::fact::FactKind;
use serde_json::Value;

use super::draft::{Draft, SeverityHint, deferral, instant, read_json, text};
use super::{Event, Said};
use crate::intake::maillog::kumomta::message_id;

/// Reads the records of a body.
pub(super) fn read(hook: &Hook, body: &[u8]) -> Result<Vec<Event>, String> {
    let records = read_json(body).or_else(|why| read_lines(body).ok_or(why))?;
    Ok(records
        .iter()
        .flat_map(|record| read_record(hook, record))
        .collect())
}

fn read_lines(body: &[u8]) -> Option<Vec<Value>> {
    let text = std::str::from_utf8(body).ok()?;
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The events of one record: one for each of its recipients.
fn read_record(hook: &Hook, record: &Value) -> Vec<Event> {
    let kind = record["type"].as_str().unwrap_or_default();
    let recipients = match (kind, &record["recipient"]) {
        // Whom a complaint is about stands in the report; the record's own recipient is the address
        // for complaints.
        ("Feedback", _) => texts(&record["feedback_report"]["original_rcpt_to"]),
        (_, recipient) => texts(recipient),
    };
    if recipients.is_empty() {
        return vec![Event {
            id: None,
            said: read_for(hook, record, kind, None),
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
            said: read_for(hook, record, kind, Some(recipient)),
        })
        .collect()
}

fn read_for(hook: &Hook, record: &Value, kind: &str, recipient: Option<&str>) -> Said {
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
        "Bounce" => draft.bounce(hook, &reply, SeverityHint::AsSaid("550")),
        "TransientFailure" => deferral(
            hook,
            draft.bounce(hook, &reply, SeverityHint::Soft("450")),
            "TransientFailure",
        ),
        // It tried for as long as it may, and the last thing that it heard need not be why.
        "Expiration" => draft.bounce(hook, &reply, SeverityHint::Soft("450 4.4.7")),
        "OOB" => draft.bounce(hook, &reply, SeverityHint::AsSaid("450")),
        "Feedback" if record["feedback_report"]["feedback_type"] == "not-spam" => {
            Said::Ignored("not-spam")
        }
        "Feedback" => draft.fact(hook, FactKind::Complaint),
        "Reception" => Said::Ignored("Reception"),
        "Delayed" => Said::Ignored("Delayed"),
        "AdminBounce" => Said::Ignored("AdminBounce"),
        "Rejection" => Said::Ignored("Rejection"),
        "AdminRebind" | "DeferredInjectionRebind" | "XferOut" | "XferIn" => {
            Said::Ignored("a move between queues")
        }
        "" => Said::Unknown("a record without a type".to_owned()),
        other => Said::Unknown(other.to_owned()),
    }
}

/// The reply as one line: code, enhanced status, text.
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

/// One text, or several.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) if !text.is_empty() => vec![text],
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}
