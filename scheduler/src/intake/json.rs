//! The JSON adapter: one object of the wire format is one bounce. Whatever is wrong is refused with the field's name,
//! its value, and what is allowed there.

use serde_json::{Map, Value, json};
use shared::account::Account;
use shared::address::Address;
use shared::bounce::{Bounce, derived_message_id};
use shared::clock::Timestamp;
use shared::job::{CONTENT_SCHEMES, ContentRef, ExpiresAt, Message, is_content_url};
use shared::reply::Reply;
use shared::status::{EnhancedStatus, StatusClass};

/// How much of a refused value is given back, in characters.
const VALUE_CHARS: usize = 80;

/// Bytes of a bounce's metadata, as JSON.
const METADATA_MAX: usize = 4 << 10;

/// How deep a bounce's metadata may be nested. Within events it stands deeper, and JSON is read to a depth of 127 only.
pub(super) const METADATA_DEPTH_MAX: usize = 32;

/// Bytes of a short text: a message id (RFC 5322, section 2.1.1 bounds its line), a path, a name.
const TEXT_MAX: usize = 998;

/// Every field that a bounce can have.
const FIELDS: [&str; 14] = [
    "recipient",
    "reply",
    "status",
    "message_id",
    "occurred_at",
    "account",
    "stream",
    "route",
    "envelope_from",
    "content",
    "expires_at",
    "remote_mta",
    "traceparent",
    "metadata",
];

/// Why something is not a bounce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The field, where one is to blame.
    pub field: Option<String>,
    /// Its value, shortened.
    pub value: Option<String>,
    /// What is wrong, and what is allowed.
    pub reason: String,
    /// The line that it stood on, where it came as one of many lines.
    pub line: Option<u64>,
}

impl Refusal {
    /// A refusal of a whole item.
    pub fn whole(reason: impl Into<String>) -> Self {
        Self { field: None, value: None, reason: reason.into(), line: None }
    }

    /// A refusal of a message whose route is not one of those configured.
    pub fn unknown_route(route: &str, routes: &[String]) -> Self {
        let reason = format!("there is no such route; configured are: {}", routes.join(", "));
        Self::of("route", Some(&Value::from(route)), reason)
    }

    pub(super) fn of(field: &str, value: Option<&Value>, reason: impl Into<String>) -> Self {
        let value = value.map(|value| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.chars().take(VALUE_CHARS).collect()
        });
        Self { field: Some(field.chars().take(VALUE_CHARS).collect()), value, reason: reason.into(), line: None }
    }

    /// What is wrong, without the value, which may name a person.
    pub fn without_value(&self) -> String {
        self.field.as_ref().map_or_else(|| self.reason.clone(), |field| format!("{field}: {}", self.reason))
    }

    /// The refusal as the API gives it.
    pub fn to_wire(&self) -> Value {
        let mut wire = json!({"answer": "refused", "reason": self.reason});
        for (key, part) in [("field", &self.field), ("value", &self.value)] {
            if let Some(text) = part {
                wire[key] = text.as_str().into();
            }
        }
        if let Some(line) = self.line {
            wire["line"] = line.into();
        }
        wire
    }
}

/// Reads one bounce. `now` stands for the time of a bounce that does not tell its own; `inline_max` bounds inline
/// content in bytes.
pub fn read(item: Value, now: Timestamp, inline_max: usize) -> Result<Bounce, Refusal> {
    let Value::Object(mut fields) = item else {
        return Err(Refusal::whole("a bounce is a JSON object"));
    };
    if let Some(unknown) = fields.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        let allowed = FIELDS.join(", ");
        return Err(Refusal::of(
            unknown,
            None,
            format!("there is no such field; put it into metadata, or use one of {allowed}"),
        ));
    }
    let content = content(fields.remove("content"), inline_max)?;
    let fields = Fields::new(fields);
    let recipient =
        fields.address("recipient")?.ok_or_else(|| Refusal::of("recipient", None, "every bounce needs one"))?;
    let account = fields.parse("account", Account::parse)?.unwrap_or_default();
    let reply = fields.reply()?;
    let occurred_at = fields.instant("occurred_at")?;
    let envelope_from = match fields.text("envelope_from")? {
        None | Some("" | "<>") => None,
        Some(_) => fields.address("envelope_from")?,
    };
    let metadata = fields.metadata()?;
    let id = match fields.message_id()? {
        Some(id) => id,
        None => {
            let inline = match &content {
                Some(ContentRef::Inline(text) | ContentRef::File(text) | ContentRef::Url(text)) => text,
                None => "",
            };
            let occurred = occurred_at.map(|at| at.to_string()).unwrap_or_default();
            derived_message_id(&[account.as_str(), recipient.as_str(), &occurred, inline])
        }
    };
    let message = Message {
        id,
        bounced_at: occurred_at.unwrap_or(now),
        accepted: None,
        envelope_from,
        route: fields.text("route")?.map(str::to_owned),
        stream: fields.text("stream")?.map(str::to_owned),
        expires_at: fields.instant("expires_at")?.map(ExpiresAt),
        content,
        remote_mta: fields.text("remote_mta")?.map(str::to_owned),
        traceparent: fields.traceparent()?,
        metadata,
    };
    Ok(Bounce { account, recipient, reply, occurred_at, message })
}

/// The fields of one bounce or fact. A field that is null counts as absent.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn new(fields: Map<String, Value>) -> Self {
        Self(fields)
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn refuse(&self, field: &str, reason: impl Into<String>) -> Refusal {
        Refusal::of(field, self.0.get(field), reason)
    }

    /// Text of bounded length without control characters, which have no place in envelopes and headers.
    fn text(&self, field: &str) -> Result<Option<&str>, Refusal> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| self.refuse(field, "must be text"))?;
        if text.len() > TEXT_MAX {
            return Err(self.refuse(field, format!("is longer than {TEXT_MAX} bytes")));
        }
        if text.chars().any(char::is_control) {
            return Err(self.refuse(field, "must not hold CR, LF or other control characters"));
        }
        Ok(Some(text))
    }

    pub(super) fn parse<T, E: ToString>(
        &self,
        field: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Refusal> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        parse(text).map(Some).map_err(|why| self.refuse(field, why.to_string()))
    }

    pub(super) fn address(&self, field: &str) -> Result<Option<Address>, Refusal> {
        self.parse(field, Address::parse)
    }

    pub(super) fn message_id(&self) -> Result<Option<String>, Refusal> {
        match self.text("message_id")? {
            Some("") => Err(Refusal::of("message_id", None, "must not be empty; leave it out where there is none")),
            id => Ok(id.map(str::to_owned)),
        }
    }

    pub(super) fn instant(&self, field: &str) -> Result<Option<Timestamp>, Refusal> {
        self.parse(field, |text| Timestamp::parse(text).ok_or("must be an RFC 3339 instant, like 2026-11-21T09:30:00Z"))
    }

    /// The reply, with the status where one is given beside it. A reply may be of many lines, so it is not a plain text.
    fn reply(&self) -> Result<Reply, Refusal> {
        let status = self.parse("status", str::parse::<EnhancedStatus>)?;
        let raw = match self.get("reply") {
            None => None,
            Some(value) => Some(value.as_str().ok_or_else(|| self.refuse("reply", "must be text"))?),
        };
        if status.is_none() && raw.is_some_and(|raw| raw.trim().is_empty()) {
            return Err(self.refuse("reply", "is empty; say what the mail system said, or give a status"));
        }
        let mut reply = match (raw, status) {
            (None, None) => return Err(Refusal::of("reply", None, "every bounce needs a reply, or at least a status")),
            (raw, _) => Reply::parse(raw.unwrap_or_default()),
        };
        if status.is_some() {
            // The platform's word goes before a code that says success; with both, nobody could tell what happened.
            reply.status = status;
            reply.code = reply.code.filter(|code| *code >= 400);
        }
        if reply.class() == Some(StatusClass::Success) {
            let field = if status.is_some() { "status" } else { "reply" };
            return Err(self.refuse(field, "says that the mail got through; a bounce is a failure, 4xx or 5xx"));
        }
        Ok(reply)
    }

    fn metadata(&self) -> Result<Map<String, Value>, Refusal> {
        let Some(value) = self.get("metadata") else { return Ok(Map::new()) };
        let map = value.as_object().ok_or_else(|| self.refuse("metadata", "must be a JSON object"))?;
        if value.to_string().len() > METADATA_MAX {
            return Err(self.refuse("metadata", format!("is longer than {METADATA_MAX} bytes of JSON")));
        }
        if is_deeper(value, METADATA_DEPTH_MAX) {
            return Err(self.refuse("metadata", format!("is nested more than {METADATA_DEPTH_MAX} deep")));
        }
        Ok(map.clone())
    }

    /// A W3C trace context: `00-<32 hex>-<16 hex>-<2 hex>`.
    fn traceparent(&self) -> Result<Option<String>, Refusal> {
        self.parse("traceparent", |text| {
            let lengths: Vec<usize> = text.split('-').map(str::len).collect();
            let hex = text.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if lengths == [2, 32, 16, 2] && hex {
                Ok(text.to_owned())
            } else {
                Err("must look like 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            }
        })
    }
}

/// Whether there are more than so many levels of arrays and objects in a value.
pub(super) fn is_deeper(value: &Value, levels: usize) -> bool {
    let inner = |value: &Value| is_deeper(value, levels - 1);
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(inner),
        Value::Object(fields) => levels == 0 || fields.values().any(inner),
        _ => false,
    }
}

fn content(value: Option<Value>, inline_max: usize) -> Result<Option<ContentRef>, Refusal> {
    let refuse = |field: &str, reason: String| Err(Refusal::of(field, None, reason));
    let allowed = "must be {\"inline\": \"…\"}, {\"file\": \"/path\"} or {\"url\": \"s3://bucket/key\"}";
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(mut map)) if map.len() == 1 && map.contains_key("url") => {
            let url = map.remove("url").and_then(|url| url.as_str().map(str::to_owned)).unwrap_or_default();
            if url.len() <= TEXT_MAX && is_content_url(&url) {
                Ok(Some(ContentRef::Url(url)))
            } else {
                let schemes = CONTENT_SCHEMES.join("://, ");
                refuse(
                    "content.url",
                    format!("must be a {schemes}:// URL without user, query and fragment, of at most {TEXT_MAX} bytes"),
                )
            }
        }
        Some(Value::Object(mut map)) if map.len() == 1 => match (map.remove("inline"), map.remove("file")) {
            (Some(Value::String(text)), _) if text.len() > inline_max => {
                refuse("content.inline", format!("is longer than {inline_max} bytes; put it into a file"))
            }
            (Some(Value::String(text)), _) if text.trim().is_empty() => {
                refuse("content.inline", "is empty; leave content out where the platform holds it".to_owned())
            }
            (Some(Value::String(text)), _) => Ok(Some(ContentRef::Inline(text))),
            (_, Some(Value::String(path)))
                if path.starts_with('/') && path.len() <= TEXT_MAX && !path.contains('\0') =>
            {
                Ok(Some(ContentRef::File(path)))
            }
            (_, Some(_)) => refuse("content.file", format!("must be an absolute path of at most {TEXT_MAX} bytes")),
            _ => refuse("content", allowed.to_owned()),
        },
        Some(_) => refuse("content", allowed.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_763_716_200_000);

    fn refused(item: Value) -> (String, String) {
        let refusal = read(item, NOW, 16).unwrap_err();
        (refusal.field.unwrap_or_default(), refusal.reason)
    }

    #[test]
    fn the_documented_example_is_a_bounce() {
        let bounce = read(
            json!({
                "recipient": "jo@Example.com", "reply": "452 4.3.1 Insufficient system storage",
                "message_id": "<c42.9@news.example.org>", "occurred_at": "2026-11-21T09:30:00Z", "account": "acme",
                "stream": "newsletter", "route": "relay", "envelope_from": "bounce@news.example.org",
                "content": {"inline": "From: …"}, "expires_at": "2026-12-01T00:00:00Z", "status": "4.3.1",
                "remote_mta": "mx1.example.com", "metadata": {"campaign": "c42"},
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            }),
            NOW,
            64,
        )
        .unwrap();
        assert_eq!(bounce.job_id().key(), "acme/jo@example.com");
        assert_eq!(bounce.reply.to_string(), "452 4.3.1 Insufficient system storage");
        assert_eq!(bounce.message.route.as_deref(), Some("relay"));
        assert_eq!(bounce.message.metadata["campaign"], "c42");
    }

    #[test]
    fn recipient_and_reply_or_status_are_enough() {
        for item in [
            json!({"recipient": "jo@example.com", "reply": "452 full"}),
            json!({"recipient": "jo@example.com", "status": "4.3.1"}),
            json!({"recipient": "jo@example.com", "reply": "Briefkasten voll", "envelope_from": "<>", "route": null}),
        ] {
            let bounce = read(item.clone(), NOW, 16).unwrap();
            assert_eq!(bounce.account, Account::default());
            assert_eq!(bounce.message.bounced_at, NOW);
            assert_eq!(bounce.message.id, read(item, NOW, 16).unwrap().message.id, "a repeated bounce has the same id");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        let ok = |key: &str, value: Value| {
            let mut item = json!({"recipient": "jo@example.com", "reply": "452 full"});
            item[key] = value;
            item
        };
        for (item, field) in [
            (json!([]), ""),
            (json!("text"), ""),
            (json!({"reply": "452 full"}), "recipient"),
            (json!({"recipient": "jo@example.com"}), "reply"),
            (ok("recipient", json!("jo@@example.com")), "recipient"),
            (ok("recipient", json!("jo@example.com\r\nRCPT TO:<x@y>")), "recipient"),
            (ok("recipient", json!(7)), "recipient"),
            (ok("reply", json!("250 2.0.0 ok")), "reply"),
            (ok("reply", json!(" ")), "reply"),
            (ok("content", json!({"inline": ""})), "content.inline"),
            (ok("status", json!("4.3")), "status"),
            (ok("status", json!("2.0.0")), "status"),
            (ok("message_id", json!("a\nb")), "message_id"),
            (ok("message_id", json!("x".repeat(999))), "message_id"),
            (ok("occurred_at", json!("yesterday")), "occurred_at"),
            (ok("account", json!("a/b")), "account"),
            (ok("envelope_from", json!("nobody")), "envelope_from"),
            (ok("content", json!("text")), "content"),
            (ok("content", json!({"inline": "x".repeat(17)})), "content.inline"),
            (ok("content", json!({"file": "relative"})), "content.file"),
            (ok("content", json!({"url": "s3:///key"})), "content.url"),
            (ok("content", json!({"url": "https://example.com/a?token=x"})), "content.url"),
            (ok("content", json!({"url": 1})), "content.url"),
            (ok("traceparent", json!("00-1-2-3")), "traceparent"),
            (ok("metadata", json!([1])), "metadata"),
            (ok("metadata", json!({"k": "x".repeat(5_000)})), "metadata"),
            (ok("metadata", json!({"k": nested(METADATA_DEPTH_MAX)})), "metadata"),
            (ok("recipent", json!("jo@example.com")), "recipent"),
        ] {
            let (named, reason) = refused(item.clone());
            assert_eq!(named, field, "{item}: {reason}");
        }
    }

    #[test]
    fn a_refusal_gives_the_value_back_shortened() {
        let refusal = read(json!({"recipient": "é".repeat(500), "reply": "452 x"}), NOW, 16).unwrap_err();
        assert_eq!(refusal.value.unwrap().chars().count(), VALUE_CHARS);
    }

    /// Arrays within arrays, so many of them.
    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(1), |inner, _| json!([inner]))
    }

    #[test]
    fn a_status_goes_before_a_code_that_says_success() {
        for (reply, expected) in
            [("226 full", "4.2.2 full"), ("354 go on", "4.2.2 go on"), ("450 full", "450 4.2.2 full")]
        {
            let item = json!({"recipient": "jo@example.com", "reply": reply, "status": "4.2.2"});
            assert_eq!(read(item, Timestamp::from_ms(0), 0).unwrap().reply.to_string(), expected);
        }
    }

    #[test]
    fn metadata_may_be_as_deep_as_the_bound() {
        let metadata = json!({"k": nested(METADATA_DEPTH_MAX - 1)});
        let item = json!({"recipient": "jo@example.com", "reply": "450", "metadata": metadata});
        assert_eq!(Value::Object(read(item, Timestamp::from_ms(0), 0).unwrap().message.metadata), metadata);
    }
}
