//! Bounces and facts in the making: what the services' adapters have in common when they put events
//! into our own words.

use config::hooks::Hook;
use domain::clock::Timestamp;
use domain::fact::FactKind;
use domain::reply::Reply;
use domain::status::StatusClass;
use serde_json::{Map, Value, json};

use super::Said;
use crate::intake::json::{METADATA_DEPTH_MAX, is_deeper};

/// The most of a service's own data that goes along as metadata, in bytes of JSON; where there is
/// more, none does.
const METADATA_MAX: usize = 4 << 10;

/// The longest name of a remote host.
const HOST_MAX: usize = 255;

/// What a service says beside the reply that it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeverityHint {
    /// Nothing: the reply says it all. Where it says nothing either, this is put before it.
    AsSaid(&'static str),
    /// It may succeed later, whatever the reply says. Where the reply says nothing, this is put
    /// before it.
    Soft(&'static str),
}

/// A bounce or fact about one address.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft<'e> {
    pub(super) recipient: Option<&'e str>,
    pub(super) occurred: Option<Timestamp>,
    pub(super) message_id: Option<&'e str>,
    pub(super) remote_mta: Option<&'e str>,
    pub(super) metadata: Option<&'e Map<String, Value>>,
}

impl Draft<'_> {
    /// A bounce with this reply.
    pub(super) fn bounce(&self, hook: &Hook, reply: &str, hint: SeverityHint) -> Said {
        let (reply, status) = weigh(reply, hint);
        let mut item = self.item(hook);
        item["reply"] = reply.into();
        item["status"] = status.into();
        if let Some(host) = self
            .remote_mta
            .filter(|host| host.len() <= HOST_MAX && !host.contains(char::is_control))
        {
            item["remote_mta"] = host.into();
        }
        if let Some(metadata) = self.metadata.filter(|map| !map.is_empty()) {
            let metadata = Value::Object(metadata.clone());
            if metadata.to_string().len() <= METADATA_MAX
                && !is_deeper(&metadata, METADATA_DEPTH_MAX)
            {
                item["metadata"] = metadata;
            }
        }
        Said::Bounce(item)
    }

    /// A fact of this kind.
    pub(super) fn fact(&self, hook: &Hook, kind: FactKind) -> Said {
        let mut item = self.item(hook);
        item["type"] = kind.as_str().into();
        Said::Fact(item)
    }

    fn item(&self, hook: &Hook) -> Value {
        json!({
            "account": hook.account, "recipient": self.recipient.map(bare_address),
            "occurred_at": self.occurred, "message_id": self.message_id.filter(|id| !id.is_empty()),
        })
    }
}

/// A bounce that the service still works on, or nothing where it is left to it.
pub(super) fn deferral(hook: &Hook, bounce: Said, kind: &'static str) -> Said {
    if hook.deferrals {
        bounce
    } else {
        Said::Ignored(kind)
    }
}

/// The reply as it goes on, and the status to go before its own.
fn weigh(reply: &str, hint: SeverityHint) -> (String, Option<String>) {
    let (SeverityHint::AsSaid(without) | SeverityHint::Soft(without)) = hint;
    let read = Reply::parse(reply);
    match (hint, read.class()) {
        (_, None | Some(StatusClass::Success)) => (
            format!("{without} {}", reply.trim()).trim_end().to_owned(),
            None,
        ),
        (SeverityHint::Soft(_), Some(StatusClass::Permanent)) => {
            let status = read.status.map_or("4.0.0".to_owned(), |status| {
                format!("4.{}.{}", status.subject(), status.detail())
            });
            (reply.to_owned(), Some(status))
        }
        _ => (reply.to_owned(), None),
    }
}

/// `Jo <jo@example.com>` as `jo@example.com`.
fn bare_address(text: &str) -> &str {
    match (text.rfind('<'), text.trim_end().ends_with('>')) {
        (Some(at), true) => text[at..].trim_end(),
        _ => text,
    }
}

/// An instant as services write them: seconds since the Unix epoch, as a number or as text, or RFC
/// 3339.
pub(super) fn instant(value: &Value) -> Option<Timestamp> {
    let of_seconds = |seconds: f64| {
        // Cut to the millisecond, as instants in RFC 3339 are, but for what a float lacks.
        let ms = (seconds * 1_000.0 + 0.001).floor();
        (ms.abs() < 9e15).then_some(Timestamp::from_ms(ms as i64))
    };
    match value {
        Value::Number(number) => of_seconds(number.as_f64()?),
        Value::String(text) => text
            .parse()
            .ok()
            .and_then(of_seconds)
            .or_else(|| Timestamp::parse(text)),
        _ => None,
    }
}

/// Text of a field that may be a number as well, and that is not empty.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The events of a body that is an array, or a single event.
///
/// # Errors
/// Where the body is no JSON; the text says why.
pub(super) fn read_json(body: &[u8]) -> Result<Vec<Value>, String> {
    match serde_json::from_slice(body) {
        Ok(Value::Array(events)) => Ok(events),
        Ok(event) => Ok(vec![event]),
        Err(err) => Err(format!("the body is not JSON: {err}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_has_a_say_where_the_reply_has_none_or_is_too_hard() {
        use SeverityHint::{AsSaid, Soft};
        for (reply, hint, expected, status) in [
            ("550 5.1.1 nobody", AsSaid("450"), "550 5.1.1 nobody", None),
            ("nobody", AsSaid("550 5.1.1"), "550 5.1.1 nobody", None),
            ("", AsSaid("550 5.1.1"), "550 5.1.1", None),
            ("250 ok", AsSaid("550"), "550 250 ok", None),
            (
                "552 5.2.2 full",
                Soft("450"),
                "552 5.2.2 full",
                Some("4.2.2"),
            ),
            ("552 full", Soft("450"), "552 full", Some("4.0.0")),
            ("452 4.2.2 full", Soft("450"), "452 4.2.2 full", None),
            ("slow down", Soft("450"), "450 slow down", None),
        ] {
            assert_eq!(
                weigh(reply, hint),
                (expected.to_owned(), status.map(str::to_owned)),
                "{reply} {hint:?}"
            );
        }
    }

    #[test]
    fn instants_are_read_in_all_spellings() {
        let noon = Timestamp::parse("2026-11-21T12:00:00Z");
        for value in [
            json!(1_795_262_400),
            json!(1_795_262_400.0),
            json!("1795262400"),
            json!("2026-11-21T12:00:00Z"),
            json!("2026-11-21T07:00:00.0000000-05:00"),
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
    }
}
