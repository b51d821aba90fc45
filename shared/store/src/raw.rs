//! Reads values of Redis one by one. A value that cannot be read never affects the other values of
//! its batch.

use std::collections::HashMap;

use deadpool_redis::redis::{FromRedisValue, ParsingError, Value, from_redis_value};

/// Text as Redis has it. Bytes that are not UTF-8 are replaced (U+FFFD). A value that is not text
/// is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Text(pub(crate) String);

impl From<&Value> for Text {
    fn from(value: &Value) -> Self {
        match value {
            Value::BulkString(bytes) => Self(String::from_utf8_lossy(bytes).into_owned()),
            other => Self(from_redis_value(other.clone()).unwrap_or_default()),
        }
    }
}

impl FromRedisValue for Text {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        Ok(Self::from(&value))
    }
}

/// Returns the values of an array; none if the value is not an array.
pub(crate) fn values(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) | Value::Set(values) => values,
        // RESP3 has maps for what RESP2 sends as alternating keys and values.
        Value::Map(pairs) => pairs
            .into_iter()
            .flat_map(|(key, value)| [key, value])
            .collect(),
        _ => Vec::new(),
    }
}

/// Returns the entries of a stream: id, then fields and values, alternating. An entry that was
/// deleted meanwhile has no fields.
pub(crate) fn entries(value: Value) -> Vec<(String, Vec<Value>)> {
    let entry = |value| {
        let mut parts = values(value).into_iter();
        let id = Text::from(&parts.next()?).0;
        Some((id, parts.next().map(values).unwrap_or_default()))
    };
    values(value).into_iter().filter_map(entry).collect()
}

/// Returns pairs of alternating values.
pub(crate) fn pairs(values: Vec<Value>) -> impl Iterator<Item = (Value, Value)> {
    let mut values = values.into_iter();
    std::iter::from_fn(move || Some((values.next()?, values.next()?)))
}

/// Returns a hash as texts.
pub(crate) fn texts(fields: HashMap<Text, Text>) -> HashMap<String, String> {
    fields
        .into_iter()
        .map(|(Text(field), Text(value))| (field, value))
        .collect()
}
