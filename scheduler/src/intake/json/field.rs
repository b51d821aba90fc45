//! Fields of the wire format: reads text without a copy, checks what holds for every text, and
//! finds the first wrong field of an item. Knows neither bounces nor facts.

use std::borrow::Cow;

use domain::address::Address;
use domain::bounce::Warning;
use domain::clock::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use telemetry::traceparent::TraceContext;

use super::refusal::Refusal;

/// The longest short text, in bytes: a message id, a path, a name. RFC 5322, section 2.1.1 bounds
/// the line of a message id.
pub(in crate::intake) const TEXT_MAX: usize = 998;

/// The longest name of a host, in bytes.
const HOST_MAX: usize = 255;

/// Text as it is in the item. It is copied only if it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(in crate::intake) struct Text<'i>(#[serde(borrow)] Cow<'i, str>);

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The kind of value that a field must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::intake) enum Kind {
    Text,
    /// A text in a side field.
    SideText,
    /// An object in a side field.
    SideObject,
    /// Any value. The code that reads the field checks it.
    Any,
}

/// A text field. `null` counts as absent.
#[derive(Clone, Copy)]
pub(in crate::intake) struct Field<'d> {
    name: &'static str,
    raw: Option<&'d str>,
}

impl<'d> Field<'d> {
    pub(in crate::intake) fn new(name: &'static str, text: Option<&'d Text<'_>>) -> Self {
        Self {
            name,
            raw: text.map(|text| &*text.0),
        }
    }

    /// Returns the text as it is, without any check.
    pub(in crate::intake) fn raw(self) -> Option<&'d str> {
        self.raw
    }

    /// Returns a refusal of the item because of this field.
    pub(super) fn refuse(self, reason: impl Into<String>) -> Refusal {
        Refusal::of_field(self.name, self.raw.map(Value::from).as_ref(), reason)
    }

    /// Returns the text if its length is within the bound and it has no control characters, which
    /// are not allowed in envelopes and headers.
    pub(super) fn text(self) -> Result<Option<&'d str>, Refusal> {
        let Some(text) = self.raw else {
            return Ok(None);
        };
        if text.len() > TEXT_MAX {
            return Err(self.refuse(format!("is longer than {TEXT_MAX} bytes")));
        }
        // A fast check first. Outside ASCII the control characters are U+0080 to U+009F. In UTF-8
        // they are the byte 0xC2 and one more byte.
        if text
            .bytes()
            .any(|byte| byte.is_ascii_control() || byte == 0xC2)
            && text.chars().any(char::is_control)
        {
            return Err(self.refuse("must not contain CR, LF or other control characters"));
        }
        Ok(Some(text))
    }

    /// Returns the address of an envelope sender. The null reverse-path is none.
    pub(in crate::intake) fn sender(self) -> Result<Option<Address>, Refusal> {
        match self.text()? {
            None | Some("" | "<>") => Ok(None),
            Some(_) => self.address(),
        }
    }

    /// Returns the name of a host.
    pub(super) fn host(self) -> Result<Option<String>, Refusal> {
        match self.text()? {
            Some(host) if host.len() > HOST_MAX => {
                Err(self.refuse(format!("is longer than {HOST_MAX} bytes")))
            }
            host => Ok(host.map(str::to_owned)),
        }
    }

    /// Returns the same as [`Self::text`], as an owned text.
    pub(super) fn owned(self) -> Result<Option<String>, Refusal> {
        Ok(self.text()?.map(str::to_owned))
    }

    pub(in crate::intake) fn parse<T, E: ToString>(
        self,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Refusal> {
        let Some(text) = self.text()? else {
            return Ok(None);
        };
        parse(text)
            .map(Some)
            .map_err(|why| self.refuse(why.to_string()))
    }

    pub(in crate::intake) fn address(self) -> Result<Option<Address>, Refusal> {
        self.parse(Address::parse)
    }

    pub(in crate::intake) fn message_id(self) -> Result<Option<String>, Refusal> {
        match self.text()? {
            Some("") => Err(self.refuse("must not be empty; leave it out if there is none")),
            // After the replacement of its bytes, other messages could have the same id.
            Some(id) if id.contains(char::REPLACEMENT_CHARACTER) => {
                Err(self.refuse("contains U+FFFD, which stands for bytes that could not be read"))
            }
            id => Ok(id.map(str::to_owned)),
        }
    }

    pub(in crate::intake) fn instant(self) -> Result<Option<Timestamp>, Refusal> {
        self.parse(|text| {
            Timestamp::parse(text).ok_or("must be an RFC 3339 instant, like 2026-11-21T09:30:00Z")
        })
    }

    /// Returns a W3C trace context in the form of version 00.
    pub(super) fn traceparent(self) -> Result<Option<String>, Refusal> {
        self.parse(|text| {
            TraceContext::parse(text)
                .map(|context| context.text())
                .ok_or("must look like 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        })
    }
}

/// Returns the item if it is an object of these fields alone. A side field of another kind is left
/// out, with a warning. A refusal names the first wrong field. `what` is the name of an item, like
/// `a bounce`. `hint` is a text about what to do with an unknown field.
pub(in crate::intake) fn object(
    mut item: Value,
    what: &str,
    fields: &[(&str, Kind)],
    hint: &str,
) -> Result<(Value, Vec<Warning>), Refusal> {
    let Value::Object(map) = &mut item else {
        return Err(Refusal::whole(format!("{what} must be a JSON object")));
    };
    let mut warnings = Vec::new();
    for (name, value) in map {
        let Some((_, kind)) = fields.iter().find(|(known, _)| known == name) else {
            let allowed: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            let reason = format!(
                "is not a known field; {hint}use one of {}",
                allowed.join(", ")
            );
            return Err(Refusal::of_field(name, None, reason));
        };
        let right = match kind {
            Kind::Text | Kind::SideText => value.is_string(),
            Kind::SideObject => value.is_object(),
            Kind::Any => true,
        };
        if !right && !value.is_null() {
            let allowed = if *kind == Kind::SideObject {
                "must be a JSON object"
            } else {
                "must be text"
            };
            let refusal = Refusal::of_field(name, Some(value), allowed);
            if *kind == Kind::Text {
                return Err(refusal);
            }
            warnings.push(Warning::from(refusal));
            *value = Value::Null;
        }
    }
    Ok((item, warnings))
}
