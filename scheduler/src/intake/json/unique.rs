//! JSON in which each object has each key only once. If a key is repeated, readers differ about
//! which value counts (RFC 8259, section 4), so an item in our wire format is refused. Webhooks of
//! mail services are read without this check.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use super::refusal::Refusal;
use crate::intake::foreign_json;

/// A JSON value, and the path of a repeated key in it. It is read in one pass and always to its
/// end, so that the items after it can be read.
#[derive(Debug)]
pub(crate) struct Parsed {
    value: Value,
    /// The path of the first repeated key, like `metadata.campaign`.
    repeated: Option<String>,
}

impl Parsed {
    /// Reads the text of one value.
    ///
    /// What is not Unicode in it is replaced by U+FFFD, except if it has content: the mail must not
    /// be changed.
    ///
    /// # Errors
    /// If the text is not JSON, or a key in it is repeated.
    pub(crate) fn read(text: &[u8]) -> Result<Value, Refusal> {
        serde_json::from_slice(text)
            .or_else(|err| match foreign_json::read::<Self>(text) {
                Ok(mended) if mended.value["content"].is_null() => Ok(mended),
                _ => Err(Refusal::whole(format!("it is not JSON: {err}"))),
            })
            .and_then(Self::unique)
    }

    /// Returns the value.
    ///
    /// # Errors
    /// If a key in it is repeated.
    pub(crate) fn unique(self) -> Result<Value, Refusal> {
        match self.repeated {
            None => Ok(self.value),
            Some(path) => Err(repeated(&path)),
        }
    }
}

/// Returns a refusal of an item in which this key is repeated.
pub(in crate::intake) fn repeated(path: &str) -> Refusal {
    Refusal::of_field(
        path,
        None,
        "is there twice; an object may have each key only once",
    )
}

/// Reads the value of a field, for `deserialize_with`. `null` counts as absent.
pub(super) fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    let parsed = Option::<Parsed>::deserialize(deserializer)?;
    parsed
        .map(Parsed::unique)
        .transpose()
        .map_err(|refusal| D::Error::custom(refusal.reason))
}

/// Reads the value of a field that must be an object, for `deserialize_with`. `null` counts as
/// absent.
pub(super) fn object<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Map<String, Value>>, D::Error> {
    match value(deserializer)? {
        None => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(D::Error::custom("it is not an object")),
    }
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut repeated = None;
        let value = Reader {
            repeated: &mut repeated,
        }
        .deserialize(deserializer)?;
        Ok(Self { value, repeated })
    }
}

/// Reads a value, and records the path of the first repeated key.
struct Reader<'r> {
    repeated: &'r mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element_seed(Reader {
            repeated: self.repeated,
        })? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let is_first = self.repeated.is_none();
            let value = entries.next_value_seed(Reader {
                repeated: self.repeated,
            })?;
            if let Some(path) = self.repeated.as_mut().filter(|_| is_first) {
                *path = format!("{key}.{path}");
            }
            match map.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                Entry::Occupied(entry) => {
                    self.repeated.get_or_insert_with(|| entry.key().clone());
                }
            }
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_key_is_named_at_any_depth() {
        for (text, path) in [
            (r#"{"a":1,"a":1}"#, "a"),
            (r#"{"a":1,"\u0061":2}"#, "a"),
            (r#"{"a":1,"b":null,"a":null}"#, "a"),
            (r#"{"metadata":{"c":{"d":1,"e":2,"d":3}}}"#, "metadata.c.d"),
            (r#"{"m":[1,[{"k":{}},{"k":1,"k":2}]]}"#, "m.k"),
            (
                r#"{"first":{"x":1,"x":2},"second":1,"second":2}"#,
                "first.x",
            ),
            (r#"{"":1,"":2}"#, ""),
        ] {
            let refusal = Parsed::read(text.as_bytes()).unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some(path), "{text}");
            assert!(refusal.reason.contains("twice"), "{}", refusal.reason);
        }
    }

    #[test]
    fn json_without_repeated_keys_is_read_as_serde_json_reads_it() {
        for text in [
            "null",
            "true",
            "7",
            "-7",
            "1.5",
            "1e400",
            "18446744073709551615",
            r#""é\n\"""#,
            "[]",
            "{}",
            "[{}, {}]",
            r#"{"a":{"a":{"a":[1,2,{"a":null}]}},"b":{"a":1}}"#,
            "{",
            "",
            "[1,]",
            "{\"a\":1}x",
        ] {
            let (read, plain) = (
                Parsed::read(text.as_bytes()),
                serde_json::from_str::<Value>(text),
            );
            assert_eq!(
                read.map_err(|refusal| refusal.reason),
                plain.map_err(|err| format!("it is not JSON: {err}"))
            );
        }
    }
}
