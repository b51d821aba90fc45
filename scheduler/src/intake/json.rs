//! The JSON adapter of bounces: one object of the wire format is one bounce. A wrong bounce is
//! refused with the field's name, its value, and what is allowed there. Knows no store.

use std::io::{self, Write};
use std::sync::Arc;

use domain::account::Account;
use domain::bounce::{Bounce, derived_message_id};
use domain::clock::Timestamp;
use domain::job::{ContentRef, ExpiresAt, Message};
use domain::reply::Reply;
use domain::status::{EnhancedStatus, StatusClass};
use serde::Deserialize;
use serde_json::{Map, Value};

mod content;
pub(super) mod field;
mod refusal;
pub(super) mod side_fields;
pub(crate) mod unique;

use content::content;
pub(super) use field::TEXT_MAX;
use field::{Field, Kind, Text, object};
pub use refusal::Refusal;
use side_fields::SideFields;
use unique::Parsed;

use super::signed_account::SignedAccounts;

/// How large a bounce's metadata may be, in bytes of JSON.
const METADATA_MAX: usize = 4 << 10;

/// How deep a bounce's metadata may be nested. Events contain the metadata at a greater depth, and
/// JSON is read only to a depth of 127.
const METADATA_DEPTH_MAX: usize = 32;

/// All fields that a bounce may have.
const FIELDS: [(&str, Kind); 14] = [
    ("recipient", Kind::Text),
    ("reply", Kind::Text),
    ("status", Kind::Text),
    ("message_id", Kind::Text),
    ("occurred_at", Kind::Text),
    ("account", Kind::Text),
    ("stream", Kind::Text),
    ("route", Kind::Text),
    ("envelope_from", Kind::SideText),
    ("content", Kind::Any),
    ("expires_at", Kind::Text),
    ("remote_mta", Kind::SideText),
    ("traceparent", Kind::SideText),
    ("metadata", Kind::SideObject),
];

/// Reads the bounces that a scheduler accepts: their inline content is bounded, and their routes
/// must be configured.
#[derive(Clone, Debug)]
pub struct Reader {
    inline_max: usize,
    routes: Arc<[String]>,
    accounts: SignedAccounts,
}

/// A bounce as it was sent. Its fields have the right kinds of values, but the values are not
/// checked yet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft<'i> {
    #[serde(borrow)]
    recipient: Option<Text<'i>>,
    #[serde(borrow)]
    reply: Option<Text<'i>>,
    #[serde(borrow)]
    status: Option<Text<'i>>,
    #[serde(borrow)]
    message_id: Option<Text<'i>>,
    #[serde(borrow)]
    occurred_at: Option<Text<'i>>,
    #[serde(borrow)]
    account: Option<Text<'i>>,
    #[serde(borrow)]
    stream: Option<Text<'i>>,
    #[serde(borrow)]
    route: Option<Text<'i>>,
    #[serde(borrow)]
    envelope_from: Option<Text<'i>>,
    #[serde(default, deserialize_with = "unique::value")]
    content: Option<Value>,
    #[serde(borrow)]
    expires_at: Option<Text<'i>>,
    #[serde(borrow)]
    remote_mta: Option<Text<'i>>,
    #[serde(borrow)]
    traceparent: Option<Text<'i>>,
    #[serde(default, deserialize_with = "unique::object")]
    metadata: Option<Map<String, Value>>,
}

impl Reader {
    /// A reader for these routes, and for inline content of at most `inline_max` bytes.
    pub fn new(inline_max: usize, routes: Arc<[String]>) -> Self {
        let accounts = SignedAccounts::default();
        Self {
            inline_max,
            routes,
            accounts,
        }
    }

    /// Returns the same reader, which uses the accounts that return paths of ours carry.
    #[must_use]
    pub fn with_signed_accounts(self, accounts: SignedAccounts) -> Self {
        Self { accounts, ..self }
    }

    /// Reads one bounce. Without `occurred_at` it counts as bounced at `now`.
    ///
    /// # Errors
    /// If it is wrong. The refusal names the field and what is allowed.
    pub fn read(&self, item: Value, now: Timestamp) -> Result<Bounce, Refusal> {
        self.complete(read(item, now, self.inline_max)?, now)
    }

    /// Reads the text of one bounce. Nearly all texts are right, so a text is read directly into a
    /// draft. Only if that fails is it read field by field, to find out what is wrong.
    ///
    /// # Errors
    /// The same as those of [`Self::read`].
    pub fn read_text(&self, text: &[u8], now: Timestamp) -> Result<Bounce, Refusal> {
        // Serde accepts an array for a struct: its items are the fields, in their order.
        if text.trim_ascii_start().first() == Some(&b'{')
            && let Ok(draft) = serde_json::from_slice::<Draft<'_>>(text)
        {
            let side = SideFields::new(false, Vec::new());
            return self.complete(draft.bounce(now, self.inline_max, side)?, now);
        }
        self.read(Parsed::read(text)?, now)
    }

    fn complete(&self, mut bounce: Bounce, now: Timestamp) -> Result<Bounce, Refusal> {
        self.accounts.apply(&mut bounce, now);
        match &bounce.message.route {
            Some(route) if !self.routes.contains(route) => {
                let reason = format!(
                    "the route is not configured; configured are: {}",
                    self.routes.join(", ")
                );
                Err(Refusal::of_field(
                    "route",
                    Some(&Value::from(route.as_str())),
                    reason,
                ))
            }
            _ => Ok(bounce),
        }
    }
}

/// Reads one bounce, with any route. Without `occurred_at` it counts as bounced at `now`.
/// `inline_max` bounds inline content in bytes. A side field that cannot be used is left out, with
/// a warning.
///
/// # Errors
/// If it is wrong. The refusal names the field and what is allowed.
pub fn read(item: Value, now: Timestamp, inline_max: usize) -> Result<Bounce, Refusal> {
    read_item(item, now, inline_max, false)
}

/// Reads one bounce that an adapter has written from the report of another system, without content.
/// The sender of such a report will not correct it. So a time or a message id that cannot be read
/// is left out, with a warning.
///
/// # Errors
/// The same as those of [`read`].
pub fn read_reported(item: Value, now: Timestamp) -> Result<Bounce, Refusal> {
    read_item(item, now, 0, true)
}

fn read_item(
    item: Value,
    now: Timestamp,
    inline_max: usize,
    is_reported: bool,
) -> Result<Bounce, Refusal> {
    let (item, warnings) = object(item, "a bounce", &FIELDS, "put it into metadata, or ")?;
    let draft = Draft::deserialize(item).map_err(|_| Refusal::whole("the item is not a bounce"))?;
    draft.bounce(now, inline_max, SideFields::new(is_reported, warnings))
}

impl Draft<'_> {
    fn bounce(
        self,
        now: Timestamp,
        inline_max: usize,
        mut side: SideFields,
    ) -> Result<Bounce, Refusal> {
        let content = content(self.content, inline_max)?;
        let recipient = Field::new("recipient", self.recipient.as_ref());
        let recipient = recipient
            .address()?
            .ok_or_else(|| recipient.refuse("is required"))?;
        let account = Field::new("account", self.account.as_ref())
            .parse(Account::parse)?
            .unwrap_or_default();
        let reply = reply(
            Field::new("reply", self.reply.as_ref()),
            Field::new("status", self.status.as_ref()),
        )?;
        let occurred_at = Field::new("occurred_at", self.occurred_at.as_ref()).instant();
        let occurred_at = side.read_reported(occurred_at)?;
        let envelope_from = Field::new("envelope_from", self.envelope_from.as_ref());
        let envelope_from = side.read(envelope_from.sender());
        let metadata = side.read(metadata(self.metadata));
        let id = Field::new("message_id", self.message_id.as_ref());
        let id = match side.read_reported(id.message_id())? {
            Some(id) => id,
            None => {
                let inline = match &content {
                    Some(
                        ContentRef::Inline(text) | ContentRef::File(text) | ContentRef::Url(text),
                    ) => text,
                    None => "",
                };
                let occurred = occurred_at.map(|at| at.to_string()).unwrap_or_default();
                let mut distinct = vec![account.as_str(), recipient.as_str(), &occurred, inline];
                distinct.extend(self.message_id.as_ref().map(Text::as_str));
                derived_message_id(&distinct)
            }
        };
        let message = Message {
            id,
            bounced_at: occurred_at.unwrap_or(now),
            accepted: None,
            envelope_from,
            route: Field::new("route", self.route.as_ref()).owned()?,
            stream: Field::new("stream", self.stream.as_ref()).owned()?,
            expires_at: Field::new("expires_at", self.expires_at.as_ref())
                .instant()?
                .map(ExpiresAt),
            content,
            remote_mta: side.read(Field::new("remote_mta", self.remote_mta.as_ref()).host()),
            traceparent: side
                .read(Field::new("traceparent", self.traceparent.as_ref()).traceparent()),
            metadata: metadata.unwrap_or_default(),
        };
        Ok(Bounce {
            account,
            recipient,
            reply,
            occurred_at,
            message,
            warnings: side.into_warnings(),
        })
    }
}

/// Reads the reply, together with the field `status` if there is one. A reply may have several
/// lines, so control characters are allowed in it.
fn reply(reply: Field<'_>, status: Field<'_>) -> Result<Reply, Refusal> {
    let given = status.parse(str::parse::<EnhancedStatus>)?;
    let mut read = match (reply.raw(), given) {
        (None, None) => {
            return Err(reply.refuse("is required, unless there is a status"));
        }
        (Some(raw), None) if raw.trim().is_empty() => {
            return Err(reply.refuse("is empty; send the reply of the mail system, or a status"));
        }
        (raw, _) => Reply::parse(raw.unwrap_or_default()),
    };
    if given.is_some() {
        // The status of the platform overrides a code that means success. With both, it would not
        // be clear what happened.
        read.status = given;
        read.code = read.code.filter(|code| *code >= 400);
    }
    if read.is_unreadable() {
        return Err(reply.refuse(
            "has neither a code, nor a status, nor a word; send the reply of the mail system",
        ));
    }
    if read.class() == Some(StatusClass::Success) {
        let field = if given.is_some() { status } else { reply };
        return Err(
            field.refuse("means that the mail was delivered; a bounce is a failure, 4xx or 5xx")
        );
    }
    Ok(read)
}

fn metadata(map: Option<Map<String, Value>>) -> Result<Option<Map<String, Value>>, Refusal> {
    let Some(map) = map else {
        return Ok(None);
    };
    let mut counter = BoundedCounter { left: METADATA_MAX };
    let reason = if serde_json::to_writer(&mut counter, &map).is_err() {
        format!("is longer than {METADATA_MAX} bytes of JSON")
    } else if map
        .values()
        .any(|value| is_deeper(value, METADATA_DEPTH_MAX - 1))
    {
        format!("is nested more than {METADATA_DEPTH_MAX} deep")
    } else {
        return Ok(Some(map));
    };
    Err(Refusal::of_field(
        "metadata",
        Some(&Value::Object(map)),
        reason,
    ))
}

/// Whether a value has more than `levels` levels of arrays and objects.
fn is_deeper(value: &Value, levels: usize) -> bool {
    let inner = |value: &Value| is_deeper(value, levels - 1);
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(inner),
        Value::Object(fields) => levels == 0 || fields.values().any(inner),
        _ => false,
    }
}

/// Accepts a bounded number of bytes, and keeps none of them.
struct BoundedCounter {
    left: usize,
}

impl Write for BoundedCounter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self
            .left
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::refusal::VALUE_CHARS;
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
                "recipient": "jo@Example.com",
                "reply": "452 4.3.1 Insufficient system storage",
                "message_id": "<c42.9@news.example.org>",
                "occurred_at": "2026-11-21T09:30:00Z",
                "account": "acme",
                "stream": "newsletter",
                "route": "relay",
                "envelope_from": "bounce@news.example.org",
                "content": {"inline": "From: …"},
                "expires_at": "2026-12-01T00:00:00Z",
                "status": "4.3.1",
                "remote_mta": "mx1.example.com",
                "metadata": {"campaign": "c42"},
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            }),
            NOW,
            64,
        )
        .unwrap();
        assert_eq!(bounce.job_id().key(), "acme/jo@example.com");
        assert_eq!(
            bounce.reply.to_string(),
            "452 4.3.1 Insufficient system storage"
        );
        assert_eq!(bounce.message.route.as_deref(), Some("relay"));
        assert_eq!(bounce.message.metadata["campaign"], "c42");
    }

    #[test]
    fn recipient_and_reply_or_status_are_enough() {
        for item in [
            json!({"recipient": "jo@example.com", "reply": "452 full"}),
            json!({"recipient": "jo@example.com", "status": "4.3.1"}),
            json!({
                "recipient": "jo@example.com",
                "reply": "Briefkasten voll",
                "envelope_from": "<>",
                "route": null,
            }),
        ] {
            let bounce = read(item.clone(), NOW, 16).unwrap();
            assert_eq!(bounce.account, Account::default());
            assert_eq!(bounce.message.bounced_at, NOW);
            assert_eq!(
                bounce.message.id,
                read(item, NOW, 16).unwrap().message.id,
                "a repeated bounce has the same id"
            );
        }
    }

    #[test]
    fn a_refusal_names_the_wrong_field() {
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
            (
                ok("recipient", json!("jo@example.com\r\nRCPT TO:<x@y>")),
                "recipient",
            ),
            (ok("recipient", json!(7)), "recipient"),
            (ok("reply", json!("250 2.0.0 ok")), "reply"),
            (ok("reply", json!(" ")), "reply"),
            (ok("reply", json!("-")), "reply"),
            (ok("reply", json!("12 345")), "reply"),
            (ok("content", json!({"inline": ""})), "content.inline"),
            (ok("status", json!("4.3")), "status"),
            (ok("status", json!("2.0.0")), "status"),
            (ok("message_id", json!("a\nb")), "message_id"),
            (ok("message_id", json!("x".repeat(999))), "message_id"),
            (ok("occurred_at", json!("yesterday")), "occurred_at"),
            (ok("account", json!("a/b")), "account"),
            (ok("content", json!("text")), "content"),
            (
                ok("content", json!({"inline": "x".repeat(17)})),
                "content.inline",
            ),
            (ok("content", json!({"file": "relative"})), "content.file"),
            (ok("content", json!({"url": "s3:///key"})), "content.url"),
            (
                ok("content", json!({"url": "https://example.com/a?token=x"})),
                "content.url",
            ),
            (ok("content", json!({"url": 1})), "content.url"),
            (ok("recipent", json!("jo@example.com")), "recipent"),
        ] {
            let (named, reason) = refused(item.clone());
            assert_eq!(named, field, "{item}: {reason}");
        }
    }

    #[test]
    fn a_side_field_that_cannot_be_used_is_left_out_with_a_warning() {
        for (field, value) in [
            ("envelope_from", json!("nobody")),
            ("envelope_from", json!("a@b@example.org")),
            ("envelope_from", json!("news\r\n@example.org")),
            ("envelope_from", json!("x".repeat(2_000))),
            ("envelope_from", json!(7)),
            ("remote_mta", json!("mx\u{7}")),
            ("remote_mta", json!("m".repeat(256))),
            ("remote_mta", json!({})),
            ("traceparent", json!("")),
            ("traceparent", json!("00-1-2-3")),
            (
                "traceparent",
                json!("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ),
            (
                "traceparent",
                json!("00-00000000000000000000000000000000-b7ad6b7169203331-01"),
            ),
            (
                "traceparent",
                json!("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"),
            ),
            ("traceparent", json!(7)),
            ("metadata", json!([1])),
            ("metadata", json!({"k": "x".repeat(5_000)})),
            ("metadata", json!({"k": nested(METADATA_DEPTH_MAX)})),
        ] {
            let mut item = json!({"recipient": "jo@example.com", "reply": "452 full"});
            item[field] = value;
            let text = item.to_string();
            let bounce = read(item, NOW, 16).unwrap_or_else(|why| panic!("{text}: {why:?}"));
            let message = &bounce.message;
            assert!(
                message.envelope_from.is_none()
                    && message.remote_mta.is_none()
                    && message.traceparent.is_none()
                    && message.metadata.is_empty(),
                "{text}"
            );
            let [warning] = &bounce.warnings[..] else {
                panic!("{text}: {:?}", bounce.warnings)
            };
            assert_eq!(warning.field, field, "{text}");
        }
    }

    #[test]
    fn a_traceparent_of_a_later_version_is_passed_on_as_version_00() {
        let version_00 = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let later = format!("01{}-more", &version_00[2..]);
        let item =
            json!({"recipient": "jo@example.com", "reply": "452 full", "traceparent": later});
        let bounce = read(item, NOW, 0).unwrap();
        assert_eq!(bounce.message.traceparent.as_deref(), Some(version_00));
        assert_eq!(bounce.warnings, []);
    }

    #[test]
    fn the_report_of_another_system_is_of_use_without_a_readable_time_and_message_id() {
        for (field, value) in [
            ("occurred_at", json!("yesterday")),
            ("message_id", json!("a\nb")),
            ("message_id", json!("x".repeat(999))),
            ("message_id", json!("<\u{fffd}@example.org>")),
        ] {
            let mut item = json!({"recipient": "jo@example.com", "reply": "452 full"});
            item[field] = value;
            assert_eq!(refused(item.clone()).0, field);
            let bounce = read_reported(item, NOW).unwrap();
            assert_eq!(bounce.message.bounced_at, NOW);
            assert!(bounce.message.id.starts_with("derived-"));
            assert_eq!(bounce.warnings[0].field, field);
        }
    }

    #[test]
    fn a_reply_may_be_words_alone_in_any_language() {
        for reply in ["no", "не доставлено", "配送不能", "550", "5.1.1"] {
            let item = json!({"recipient": "jo@example.com", "reply": reply});
            assert_eq!(
                read(item, NOW, 0).map(|bounce| bounce.reply.to_string()),
                Ok(reply.to_owned())
            );
        }
    }

    #[test]
    fn a_refusal_contains_the_value_shortened() {
        let refusal = read(
            json!({"recipient": "é".repeat(500), "reply": "452 x"}),
            NOW,
            16,
        )
        .unwrap_err();
        assert_eq!(refusal.value.unwrap().chars().count(), VALUE_CHARS);
    }

    /// Returns so many arrays within each other.
    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(1), |inner, _| json!([inner]))
    }

    #[test]
    fn a_status_overrides_a_code_that_means_success() {
        for (reply, expected) in [
            ("226 full", "4.2.2 full"),
            ("354 go on", "4.2.2 go on"),
            ("450 full", "450 4.2.2 full"),
        ] {
            let item = json!({"recipient": "jo@example.com", "reply": reply, "status": "4.2.2"});
            assert_eq!(
                read(item, Timestamp::from_ms(0), 0)
                    .unwrap()
                    .reply
                    .to_string(),
                expected
            );
        }
    }

    #[test]
    fn metadata_may_be_as_deep_as_the_bound() {
        let metadata = json!({"k": nested(METADATA_DEPTH_MAX - 1)});
        let item = json!({"recipient": "jo@example.com", "reply": "450", "metadata": metadata});
        assert_eq!(
            Value::Object(
                read(item, Timestamp::from_ms(0), 0)
                    .unwrap()
                    .message
                    .metadata
            ),
            metadata
        );
    }

    #[test]
    fn a_text_is_read_the_same_directly_and_field_by_field() {
        let reader = Reader::new(16, ["relay".to_owned()].into());
        let full = r#"{"recipient":"jo@example.com","reply":"452 full""#;
        let texts = [
            format!("{full}}}"),
            format!(" \t{full},\"route\":\"relay\",\"stream\":null}}\r"),
            format!(
                "{full},\"message_id\":\"<\\u00e9\\\"@example.org>\",\
                 \"metadata\":{{\"a\":[1.50,\"\\n\"]}}}}"
            ),
            format!("{full},\"content\":{{\"inline\":\"Subject: x\"}}}}"),
            format!("{full},\"occurred_at\":\"2026-11-21T09:30:00Z\",\"status\":\"4.3.1\"}}"),
            format!("{full},\"account\":7}}"),
            format!("{full},\"route\":\"nowhere\"}}"),
            format!("{full},\"recipent\":\"jo@example.com\"}}"),
            format!("{full},\"metadata\":[]}}"),
            format!("{full},\"account\":\"a/b\"}}"),
            // One value for each field.
            format!("[\"jo@example.com\",\"452 full\"{}]", ",null".repeat(12)),
            "7".to_owned(),
        ];
        for text in &texts {
            let direct = reader.read_text(text.as_bytes(), NOW);
            let by_field = reader.read(serde_json::from_str(text).unwrap(), NOW);
            assert_eq!(format!("{direct:?}"), format!("{by_field:?}"), "{text}");
        }
        let read = |text: &str| reader.read_text(text.as_bytes(), NOW);
        assert_eq!(read(&texts[6]).unwrap_err().field.as_deref(), Some("route"));
        assert!(read(&texts[10]).unwrap_err().reason.contains("object"));
        for (fields, repeated) in [
            ("\"recipient\":\"sam@example.com\"", "recipient"),
            ("\"route\":null,\"route\":null", "route"),
            (
                "\"content\":{\"file\":\"/a\",\"file\":\"/b\"}",
                "content.file",
            ),
            ("\"metadata\":{\"c\":[{\"d\":1,\"d\":1}]}", "metadata.c.d"),
        ] {
            let refusal = read(&format!("{full},{fields}}}")).unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some(repeated), "{fields}");
        }
        let half = r#"{"recipient":"jo@example.com","reply":"452 full \ud83d""#;
        let reply = read(&format!("{half}}}")).unwrap().reply.to_string();
        assert_eq!(reply, "452 full \u{fffd}");
        let not_the_address = r#"{"recipient":"\ud800@example.com","reply":"452 full"}"#;
        assert_eq!(
            read(not_the_address).unwrap_err().field.as_deref(),
            Some("recipient")
        );
        let not_the_mail = format!("{half},\"content\":{{\"inline\":\"Subject: x\"}}}}");
        for broken in ["{", "", "{}{}", &not_the_mail] {
            assert!(
                read(broken).unwrap_err().reason.contains("not JSON"),
                "{broken}"
            );
        }
    }
}
