//! KumoMTA's JSON log records, one per line (docs.kumomta.com, "Log Record"). Also chooses the id
//! of a message, for the log and the webhook alike.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{LogReader, instant};

/// Reads KumoMTA's log records. Temporary failures, permanent failures and expired messages are
/// bounces. Receptions, deliveries and messages that an administrator discarded are not. Nor are
/// reports that came back later (`OOB`): they arrive as DSN messages of their own.
#[derive(Debug, Default)]
pub struct Kumomta;

#[derive(Deserialize)]
struct Record {
    r#type: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    headers: Value,
    #[serde(default)]
    sender: String,
    #[serde(default)]
    recipient: Recipients,
    #[serde(default)]
    queue: String,
    response: Option<Response>,
    peer_address: Option<Peer>,
    timestamp: Option<f64>,
}

/// One recipient, or the recipients of a batch.
#[derive(Deserialize)]
#[serde(untagged)]
enum Recipients {
    One(String),
    Many(Vec<String>),
}

impl Default for Recipients {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(Deserialize)]
struct Response {
    code: u16,
    enhanced_code: Option<Enhanced>,
    #[serde(default)]
    content: String,
}

#[derive(Deserialize)]
struct Enhanced {
    class: u8,
    subject: u16,
    detail: u16,
}

#[derive(Deserialize)]
struct Peer {
    name: String,
}

impl LogReader for Kumomta {
    fn bounces(&mut self, line: &str) -> Result<Vec<Value>, String> {
        let record: Record = serde_json::from_str(line)
            .map_err(|err| format!("the line is not a KumoMTA log record: {err}"))?;
        if !matches!(
            record.r#type.as_str(),
            "TransientFailure" | "Bounce" | "Expiration"
        ) {
            return Ok(Vec::new());
        }
        let recipients = match &record.recipient {
            Recipients::One(one) => std::slice::from_ref(one),
            Recipients::Many(many) => many.as_slice(),
        };
        if recipients.is_empty() {
            return Err("the record names no recipient".to_owned());
        }
        Ok(recipients
            .iter()
            .map(|recipient| record.bounce(recipient))
            .collect())
    }
}

impl Record {
    fn bounce(&self, recipient: &str) -> Value {
        let mut bounce = json!({"recipient": recipient, "envelope_from": self.sender});
        if let Some(response) = &self.response {
            bounce["reply"] = response.reply().into();
        }
        if let Some(id) = message_id(&self.headers, Some(&self.id)) {
            bounce["message_id"] = id.into();
        }
        if let Some(at) = self
            .timestamp
            .and_then(|seconds| instant((seconds * 1_000.0) as i64))
        {
            bounce["occurred_at"] = at.into();
        }
        if let Some(peer) = self
            .peer_address
            .as_ref()
            .filter(|peer| !peer.name.is_empty())
        {
            bounce["remote_mta"] = peer.name.trim_end_matches('.').into();
        }
        if !self.queue.is_empty() {
            bounce["metadata"] =
                Map::from_iter([("queue".to_owned(), self.queue.as_str().into())]).into();
        }
        bounce
    }
}

/// Returns the id of a message. Log and webhook both use it, so that their reports of a message
/// match. It is the Message-ID if that header is logged, because reports and the platform know it
/// too. Otherwise it is the id in KumoMTA's spool.
pub(in crate::intake) fn message_id<'r>(
    headers: &'r Value,
    spool_id: Option<&'r str>,
) -> Option<&'r str> {
    let mut named = headers.as_object().into_iter().flatten();
    let header = named
        .find(|(name, _)| name.eq_ignore_ascii_case("message-id"))
        .and_then(|(_, value)| value.as_str());
    // An id that was not valid UTF-8 is no use: after the replacement of its bytes, other messages
    // could have the same id.
    [header, spool_id]
        .into_iter()
        .flatten()
        .find(|id| !id.is_empty() && !id.contains(char::REPLACEMENT_CHARACTER))
}

impl Response {
    fn reply(&self) -> String {
        let status = self
            .enhanced_code
            .as_ref()
            .map(|code| format!(" {}.{}.{}", code.class, code.subject, code.detail));
        format!(
            "{}{} {}",
            self.code,
            status.unwrap_or_default(),
            self.content
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &str) -> Value {
        json!({
            "type": kind,
            "id": "9f1c2a",
            "sender": "news@shop.example",
            "recipient": "jo@example.com",
            "queue": "spring:acme@example.com",
            "site": "out->mx.example.com",
            "size": 1200,
            "response": {
                "code": 452,
                "enhanced_code": {"class": 4, "subject": 3, "detail": 1},
                "content": "Insufficient system storage",
                "command": "RCPT TO",
            },
            "peer_address": {"name": "mx.example.com.", "addr": "192.0.2.7"},
            "timestamp": 1_763_717_400,
            "num_attempts": 0,
        })
    }

    #[test]
    fn only_failures_are_bounces() {
        let read = |kind: &str| Kumomta.bounces(&record(kind).to_string()).unwrap();
        assert_eq!(
            read("TransientFailure"),
            [json!({
                "recipient": "jo@example.com", "envelope_from": "news@shop.example",
                "reply": "452 4.3.1 Insufficient system storage", "message_id": "9f1c2a",
                "occurred_at": "2025-11-21T09:30:00.000Z", "remote_mta": "mx.example.com",
                "metadata": {"queue": "spring:acme@example.com"},
            })]
        );
        assert_eq!((read("Bounce").len(), read("Expiration").len()), (1, 1));
        for other in [
            "Reception",
            "Delivery",
            "AdminBounce",
            "OOB",
            "Feedback",
            "Delayed",
        ] {
            assert_eq!(read(other), Vec::<Value>::new(), "{other}");
        }
    }

    #[test]
    fn a_message_is_named_by_its_message_id_or_else_by_its_id_in_the_spool() {
        for (headers, id, expected) in [
            (json!(null), "9f1c2a", Some("9f1c2a")),
            (json!({}), "9f1c2a", Some("9f1c2a")),
            (
                json!({"Subject": "hello", "Message-ID": "<m1@example.org>"}),
                "9f1c2a",
                Some("<m1@example.org>"),
            ),
            (
                json!({"message-id": "<m1@example.org>"}),
                "",
                Some("<m1@example.org>"),
            ),
            (json!({"Message-Id": ""}), "9f1c2a", Some("9f1c2a")),
            (
                json!({"Message-ID": ["<m1@example.org>"]}),
                "9f1c2a",
                Some("9f1c2a"),
            ),
            (json!([]), "", None),
        ] {
            let mut record = record("TransientFailure");
            (record["headers"], record["id"]) = (headers, id.into());
            let bounces = Kumomta.bounces(&record.to_string()).unwrap();
            assert_eq!(bounces[0]["message_id"].as_str(), expected, "{record}");
        }
    }

    #[test]
    fn every_recipient_of_a_batch_is_a_bounce() {
        let mut batch = record("TransientFailure");
        batch["recipient"] = json!(["jo@example.com", "sam@example.com"]);
        assert_eq!(Kumomta.bounces(&batch.to_string()).unwrap().len(), 2);
        batch["recipient"] = json!([]);
        assert!(Kumomta.bounces(&batch.to_string()).is_err());
        assert!(Kumomta.bounces("{").is_err());
    }
}
