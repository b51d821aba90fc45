//! Values of Redis one by one: what cannot be read costs itself alone, and never the batch that it
//! came with.

use std::collections::HashMap;

use deadpool_redis::redis::{FromRedisValue, ParsingError, Value, from_redis_value};

/// Text as Redis has it. Bytes that are no UTF-8 are replaced (U+FFFD); a value that is no text is
/// empty.
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

/// The values of an array; none if it is no array.
pub(crate) fn values(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) | Value::Set(values) => values,
        // RESP3 has maps where RESP2 has keys and values by turns.
        Value::Map(pairs) => pairs
            .into_iter()
            .flat_map(|(key, value)| [key, value])
            .collect(),
        _ => Vec::new(),
    }
}

/// The entries of a stream, as id and fields by turns with their values. An entry that was deleted
/// meanwhile has none.
pub(crate) fn entries(value: Value) -> Vec<(String, Vec<Value>)> {
    let entry = |value| {
        let mut parts = values(value).into_iter();
        let id = Text::from(&parts.next()?).0;
        Some((id, parts.next().map(values).unwrap_or_default()))
    };
    values(value).into_iter().filter_map(entry).collect()
}

/// Pairs of values that stand by turns.
pub(crate) fn pairs(values: Vec<Value>) -> impl Iterator<Item = (Value, Value)> {
    let mut values = values.into_iter();
    std::iter::from_fn(move || Some((values.next()?, values.next()?)))
}

/// A hash as texts.
pub(crate) fn texts(fields: HashMap<Text, Text>) -> HashMap<String, String> {
    fields
        .into_iter()
        .map(|(Text(field), Text(value))| (field, value))
        .collect()
}
