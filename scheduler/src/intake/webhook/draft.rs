//! Drafts of bounces and facts: what the adapters of all mail services share when they write events
//! in our wire format. Knows no mail service.

use chrono::{Offset, Utc};
use classify::reason::{Reason, recognize};
use config::hooks::Hook;
use domain::clock::Timestamp;
use domain::fact::FactKind;
use domain::reply::Reply;
use domain::status::StatusClass;
use serde_json::{Map, Value, json};

use super::event::{Event, EventMeaning};
use crate::intake::foreign_json;
use crate::intake::instants::read_instant;

/// How severe the service itself considers a failure, apart from the reply that it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeverityHint {
    /// The service adds nothing, and the reply decides. If the reply has no failure code or status,
    /// this text is put before it.
    AsReply(&'static str),
    /// The message may succeed later, even if the reply is permanent. If the reply has no failure
    /// code or status, this text is put before it.
    Soft(&'static str),
    /// The sender or the message was refused, by the type that the service gives, and not the
    /// address. So the address is retired only if the reply names a dead mailbox. If the reply
    /// leaves the cause open, this text's status counts.
    NotAddress(&'static str),
}

/// The reasons with which a reply names a dead mailbox.
const DEAD: [Reason; 6] = [
    Reason::UserUnknown,
    Reason::Moved,
    Reason::MailboxDisabled,
    Reason::MailboxAbandoned,
    Reason::HostUnknown,
    Reason::NotAccepting,
];

/// A bounce or fact about one address. Its values are as the service wrote them. The readers of our
/// wire format check them, and report those that cannot be used.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft<'e> {
    pub(super) recipient: Option<&'e str>,
    /// When it happened, from [`occurred`].
    pub(super) occurred: Value,
    pub(super) message_id: Option<&'e str>,
    pub(super) envelope_from: Option<&'e str>,
    pub(super) remote_mta: Option<&'e str>,
    pub(super) metadata: Option<&'e Map<String, Value>>,
}

impl Draft<'_> {
    /// Returns a bounce with this reply.
    pub(super) fn bounce(&self, hook: &Hook, reply: &str, hint: SeverityHint) -> EventMeaning {
        let (reply, status) = apply_hint(reply, hint);
        let mut item = self.item(hook);
        item["reply"] = reply.into();
        item["status"] = status.into();
        if let Some(host) = self.remote_mta.filter(|host| !host.is_empty()) {
            item["remote_mta"] = host.into();
        }
        if let Some(metadata) = self.metadata.filter(|map| !map.is_empty()) {
            item["metadata"] = Value::Object(metadata.clone());
        }
        EventMeaning::Bounce(item)
    }

    /// Returns a fact of this kind.
    pub(super) fn fact(&self, hook: &Hook, kind: FactKind) -> EventMeaning {
        let mut item = self.item(hook);
        item["type"] = kind.as_str().into();
        EventMeaning::Fact(item)
    }

    fn item(&self, hook: &Hook) -> Value {
        let mut item = json!({
            "account": hook.account,
            "recipient": self.recipient.map(bare_address),
            "occurred_at": self.occurred,
            "message_id": self.message_id.filter(|id| !id.is_empty()),
        });
        if let Some(sender) = self.envelope_from.filter(|sender| !sender.is_empty()) {
            item["envelope_from"] = sender.into();
        }
        item
    }
}

/// Returns the bounce of a message that the service still retries. Ignores it if the hook leaves
/// such messages to the service (`deferrals = false`).
pub(super) fn deferral(hook: &Hook, bounce: EventMeaning, kind: &'static str) -> EventMeaning {
    if hook.deferrals {
        bounce
    } else {
        EventMeaning::Ignored(kind)
    }
}

/// Returns the reply to pass on, and the status that overrides the reply's own, if any.
fn apply_hint(reply: &str, hint: SeverityHint) -> (String, Option<String>) {
    let (SeverityHint::AsReply(default)
    | SeverityHint::Soft(default)
    | SeverityHint::NotAddress(default)) = hint;
    let read = Reply::parse(reply);
    let soft = || {
        let status = read.status.map_or("4.0.0".to_owned(), |status| {
            format!("4.{}.{}", status.subject(), status.detail())
        });
        (reply.to_owned(), Some(status))
    };
    match (hint, read.class()) {
        (_, None | Some(StatusClass::Success)) => (
            format!("{default} {}", reply.trim()).trim_end().to_owned(),
            None,
        ),
        (SeverityHint::Soft(_), Some(StatusClass::Permanent)) => soft(),
        (SeverityHint::NotAddress(_), Some(StatusClass::Permanent)) => {
            let meant = Reply::parse(default);
            let is_vague = read.status.is_none_or(|status| status.subject() == 0);
            match (recognize(&read), meant.status) {
                (Some(reason), _) if DEAD.contains(&reason) => (reply.to_owned(), None),
                // A full mailbox is not dead.
                (Some(Reason::MailboxFull), _) => soft(),
                (_, Some(status)) if is_vague => (reply.to_owned(), Some(status.to_string())),
                _ if meant.class() == Some(StatusClass::Transient) => soft(),
                _ => (reply.to_owned(), None),
            }
        }
        _ => (reply.to_owned(), None),
    }
}

/// Returns the address in `Jo <jo@example.com>`, with its angle brackets. Any other text is
/// returned as it is.
fn bare_address(text: &str) -> &str {
    match (text.rfind('<'), text.trim_end().ends_with('>')) {
        (Some(at), true) => text[at..].trim_end(),
        _ => text,
    }
}

/// Returns the first of these values that is an instant, in the wire format. If none is, returns
/// the first that is there, as text: the reader of the wire format reports it.
pub(super) fn occurred(values: &[&Value]) -> Value {
    match values.iter().find_map(|value| instant(value)) {
        Some(at) => json!(at),
        None => values
            .iter()
            .find_map(|value| match value {
                Value::Null => None,
                Value::String(text) if text.is_empty() => None,
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            })
            .into(),
    }
}

/// Reads an instant as services write it: seconds since the Unix epoch, as a number or as text, or
/// one of the forms of [`read_instant`]. Without an offset it is in UTC.
pub(super) fn instant(value: &Value) -> Option<Timestamp> {
    let of_seconds = |seconds: f64| {
        // Cut to the millisecond, like instants in RFC 3339. The addend makes up for the rounding
        // of floats.
        let ms = (seconds * 1_000.0 + 0.001).floor();
        (ms.abs() < 9e15).then_some(Timestamp::from_ms(ms as i64))
    };
    match value {
        Value::Number(number) => of_seconds(number.as_f64()?),
        Value::String(text) => text
            .parse()
            .ok()
            .and_then(of_seconds)
            .or_else(|| read_instant(text, Utc.fix())),
        _ => None,
    }
}

/// Returns the text of a field that may also be a number. Returns `None` if it is empty.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Reads a body that is an array of events, or a single event. `read_event` reads one of them. An
/// event that is not JSON affects no other.
///
/// # Errors
/// If nothing of the body is JSON. The text explains why.
pub(super) fn read_each(
    body: &[u8],
    read_event: impl Fn(&Value) -> Vec<Event>,
) -> Result<Vec<Event>, String> {
    let values = foreign_json::read_each(body)?;
    Ok(values
        .into_iter()
        .flat_map(|value| read_or_refuse(value, &read_event))
        .collect())
}

/// Returns the events of a value, or one event that tells why there is no value.
pub(super) fn read_or_refuse(
    value: Result<Value, String>,
    read_event: impl Fn(&Value) -> Vec<Event>,
) -> Vec<Event> {
    match value {
        Ok(value) => read_event(&value),
        Err(why) => vec![Event {
            id: None,
            meaning: EventMeaning::Unreadable(why),
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_of_the_service_counts_if_the_reply_is_unclear_or_too_severe() {
        use SeverityHint::{AsReply, NotAddress, Soft};
        for (reply, hint, expected, status) in [
            ("550 5.1.1 nobody", AsReply("450"), "550 5.1.1 nobody", None),
            ("nobody", AsReply("550 5.1.1"), "550 5.1.1 nobody", None),
            ("", AsReply("550 5.1.1"), "550 5.1.1", None),
            ("250 ok", AsReply("550"), "550 250 ok", None),
            (
                "552 5.2.2 full",
                Soft("450"),
                "552 5.2.2 full",
                Some("4.2.2"),
            ),
            ("552 full", Soft("450"), "552 full", Some("4.0.0")),
            ("452 4.2.2 full", Soft("450"), "452 4.2.2 full", None),
            ("slow down", Soft("450"), "450 slow down", None),
            ("550 no", NotAddress("554 5.7.1"), "550 no", Some("5.7.1")),
            ("550", NotAddress("450"), "550", Some("4.0.0")),
            (
                "550 5.7.606 banned",
                NotAddress("450"),
                "550 5.7.606 banned",
                Some("4.7.606"),
            ),
            (
                "550 5.7.606 banned",
                NotAddress("554 5.7.1"),
                "550 5.7.606 banned",
                None,
            ),
            (
                "552 5.2.2 mailbox full",
                NotAddress("554 5.7.1"),
                "552 5.2.2 mailbox full",
                Some("4.2.2"),
            ),
            (
                "550 5.1.1 user unknown",
                NotAddress("554 5.7.1"),
                "550 5.1.1 user unknown",
                None,
            ),
            (
                "550 user unknown",
                NotAddress("450"),
                "550 user unknown",
                None,
            ),
            ("", NotAddress("554 5.7.1"), "554 5.7.1", None),
            ("450 later", NotAddress("554 5.7.1"), "450 later", None),
        ] {
            assert_eq!(
                apply_hint(reply, hint),
                (expected.to_owned(), status.map(str::to_owned)),
                "{reply} {hint:?}"
            );
        }
    }

    #[test]
    fn instants_are_read_in_every_form() {
        let noon = Timestamp::parse("2026-11-21T12:00:00Z");
        for value in [
            json!(1_795_262_400),
            json!(1_795_262_400.0),
            json!("1795262400"),
            json!("2026-11-21T12:00:00Z"),
            json!("2026-11-21T07:00:00.0000000-05:00"),
            json!("2026-11-21T12:00:00.0000000"),
            json!("2026-11-21T13:00:00+0100"),
        ] {
            assert_eq!(instant(&value), noon, "{value}");
        }
        for value in [
            json!(null),
            json!("yesterday"),
            json!(1e300),
            json!("inf"),
            json!("NaN"),
            json!([1]),
        ] {
            assert_eq!(instant(&value), None, "{value}");
        }
        for (values, expected) in [
            (
                [json!(null), json!(1_795_262_400)],
                json!("2026-11-21T12:00:00.000Z"),
            ),
            (
                [json!("soon"), json!(1_795_262_400)],
                json!("2026-11-21T12:00:00.000Z"),
            ),
            ([json!("soon"), json!([1])], json!("soon")),
            ([json!(""), json!(null)], json!(null)),
        ] {
            assert_eq!(occurred(&[&values[0], &values[1]]), expected);
        }
    }
}
