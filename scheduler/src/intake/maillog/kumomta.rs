//! KumoMTA's JSON log records, one per line (docs.kumomta.com, "Log Record"). They are read as in
//! its webhook.

use config::hooks::Hook;
use domain::fact::FactKind;
use serde_json::Value;

use super::recent::Recent;
use super::{LogItem, LogReader, WAITING_MAX, waiting_key};
use crate::intake::foreign_json;
use crate::intake::webhook::EventMeaning;
use crate::intake::webhook::kumomta::read_record;

/// Reads KumoMTA's log records. Temporary failures, permanent failures, expired messages and
/// reports that came back later are bounces. Receptions, and messages that an administrator
/// discarded, are not. Complaints are facts, and so are deliveries after a failure.
#[derive(Debug)]
pub struct Kumomta {
    /// The messages and recipients whose delivery failed.
    waiting: Recent<()>,
}

impl Default for Kumomta {
    fn default() -> Self {
        Self {
            waiting: Recent::new(WAITING_MAX),
        }
    }
}

impl LogReader for Kumomta {
    fn items(&mut self, line: &str) -> Result<Vec<LogItem>, String> {
        let record: Value = foreign_json::read(line.as_bytes())
            .map_err(|err| format!("the line is not a KumoMTA log record: {err}"))?;
        let spool_id = record["id"].as_str().unwrap_or_default();
        let key =
            |item: &Value| waiting_key(spool_id, item["recipient"].as_str().unwrap_or_default());
        let mut items = Vec::new();
        for event in read_record(&Hook::default(), &record) {
            match event.meaning {
                EventMeaning::Fact(item) if item["type"] == FactKind::Delivered.as_str() => {
                    if self.waiting.get(&key(&item)).is_some() {
                        items.push(LogItem::Fact(without_absent(item)));
                    }
                }
                EventMeaning::Bounce(item) | EventMeaning::Fact(item)
                    if item["recipient"].is_null() =>
                {
                    return Err("the record names no recipient".to_owned());
                }
                EventMeaning::Bounce(item) => {
                    self.waiting.entry(&key(&item));
                    items.push(LogItem::Bounce(without_absent(item)));
                }
                EventMeaning::Fact(item) => items.push(LogItem::Fact(without_absent(item))),
                EventMeaning::Ignored(_) => {}
                EventMeaning::Unknown(kind) => {
                    return Err(format!("the type of the record is not known: {kind}"));
                }
                EventMeaning::Unreadable(why) => return Err(why),
            }
        }
        Ok(items)
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

    fn read(log: &[Value]) -> Vec<LogItem> {
        let mut reader = Kumomta::default();
        log.iter()
            .flat_map(|record| reader.items(&record.to_string()).unwrap())
            .collect()
    }

    #[test]
    fn only_failures_are_bounces() {
        let read = |kind: &str| read(&[record(kind)]);
        assert_eq!(
            read("TransientFailure"),
            [LogItem::Bounce(json!({
                "recipient": "jo@example.com", "envelope_from": "news@shop.example",
                "reply": "452 4.3.1 Insufficient system storage (in reply to RCPT TO command)",
                "message_id": "9f1c2a",
                "occurred_at": "2025-11-21T09:30:00.000Z", "remote_mta": "mx.example.com",
                "metadata": {"queue": "spring:acme@example.com"},
            }))]
        );
        for kind in ["Bounce", "Expiration", "OOB"] {
            assert!(matches!(&read(kind)[..], [LogItem::Bounce(_)]), "{kind}");
        }
        for other in ["Reception", "Delivery", "AdminBounce", "Delayed"] {
            assert_eq!(read(other), [], "{other}");
        }
    }

    #[test]
    fn a_delivery_is_a_fact_if_the_same_message_to_the_same_recipient_failed_before() {
        let fact = json!({
            "type": "delivered", "recipient": "jo@example.com", "message_id": "9f1c2a",
            "occurred_at": "2025-11-21T09:30:00.000Z", "envelope_from": "news@shop.example",
        });
        let log = [record("TransientFailure"), record("Delivery")];
        assert_eq!(read(&log)[1..], [LogItem::Fact(fact)]);
        for (field, value) in [("id", "other"), ("recipient", "sam@example.com")] {
            let mut log = log.clone();
            log[1][field] = value.into();
            assert_eq!(read(&log).len(), 1, "{field}");
        }
    }

    #[test]
    fn a_complaint_is_a_fact_about_the_address_that_it_names() {
        let mut complaint = record("Feedback");
        complaint["feedback_report"] =
            json!({"feedback_type": "abuse", "original_rcpt_to": ["sam@example.com"]});
        let [LogItem::Fact(fact)] = &read(&[complaint])[..] else {
            panic!("it is one fact");
        };
        assert_eq!(
            (&fact["type"], &fact["recipient"]),
            (&json!("complaint"), &json!("sam@example.com"))
        );
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
            assert!(Kumomta::default().items(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_recipient_of_a_batch_is_a_bounce() {
        let mut batch = record("TransientFailure");
        batch["recipient"] = json!(["jo@example.com", "sam@example.com"]);
        assert_eq!(read(&[batch]).len(), 2);
    }
}
