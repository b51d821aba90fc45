//! KumoMTA's JSON log records, one per line (docs.kumomta.com, "Log Record"). They are read as in
//! its webhook.

use config::hooks::Hook;
use serde_json::Value;

use super::LogReader;
use crate::intake::foreign_json;
use crate::intake::webhook::EventMeaning;
use crate::intake::webhook::kumomta::read_record;

/// Reads KumoMTA's log records. Temporary failures, permanent failures, expired messages and
/// reports that came back later are bounces. Receptions, and messages that an administrator
/// discarded, are not. Deliveries and complaints are facts, which are not bounces.
#[derive(Debug, Default)]
pub struct Kumomta;

impl LogReader for Kumomta {
    fn bounces(&mut self, line: &str) -> Result<Vec<Value>, String> {
        let record: Value = foreign_json::read(line.as_bytes())
            .map_err(|err| format!("the line is not a KumoMTA log record: {err}"))?;
        let mut bounces = Vec::new();
        for event in read_record(&Hook::default(), &record) {
            match event.meaning {
                EventMeaning::Bounce(item) if item["recipient"].is_null() => {
                    return Err("the record names no recipient".to_owned());
                }
                EventMeaning::Bounce(item) => bounces.push(without_absent(item)),
                EventMeaning::Fact(_) | EventMeaning::Ignored(_) => {}
                EventMeaning::Unknown(kind) => {
                    return Err(format!("the type of the record is not known: {kind}"));
                }
                EventMeaning::Unreadable(why) => return Err(why),
            }
        }
        Ok(bounces)
    }
}

/// Returns an item without its fields that are absent, and without the account: a log does not know
/// it.
fn without_absent(item: Value) -> Value {
    let Value::Object(fields) = item else {
        return item;
    };
    fields
        .into_iter()
        .filter(|(name, value)| !value.is_null() && name != "account")
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
                "command": "RCPT TO:<jo@example.com>\r\n",
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
                "reply": "452 4.3.1 Insufficient system storage (in reply to RCPT TO command)",
                "message_id": "9f1c2a",
                "occurred_at": "2025-11-21T09:30:00.000Z", "remote_mta": "mx.example.com",
                "metadata": {"queue": "spring:acme@example.com"},
            })]
        );
        for kind in ["Bounce", "Expiration", "OOB"] {
            assert_eq!(read(kind).len(), 1, "{kind}");
        }
        for other in [
            "Reception",
            "Delivery",
            "AdminBounce",
            "Feedback",
            "Delayed",
        ] {
            assert_eq!(read(other), Vec::<Value>::new(), "{other}");
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_refused() {
        let mut nobody = record("TransientFailure");
        nobody["recipient"] = json!([]);
        for line in [
            "{",
            "7",
            "{}",
            "Nov 29 10:00:01 out1 kumod: started",
            &record("Teleport").to_string(),
            &nobody.to_string(),
        ] {
            assert!(Kumomta.bounces(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_recipient_of_a_batch_is_a_bounce() {
        let mut batch = record("TransientFailure");
        batch["recipient"] = json!(["jo@example.com", "sam@example.com"]);
        assert_eq!(Kumomta.bounces(&batch.to_string()).unwrap().len(), 2);
    }
}
