//! Writes the few forms of Protocol Buffers that spans consist of. All field numbers are below 16,
//! unless a function says otherwise.

use crate::traceparent::hex_digits;

/// The value of an attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    /// A text: the 16 hexadecimal digits of a hash.
    Hash(u64),
    Int(i64),
    Float(f64),
    Bool(bool),
}

const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

/// The most bytes of a number.
const VARINT_MAX: usize = 10;

/// How many bytes the length of a [`message`] takes. It is written after the message, so it takes
/// more than it needs, which every reader accepts. Seven bits of each byte count.
const LENGTH: usize = 4;

#[inline]
fn tag(out: &mut Vec<u8>, field: u8, kind: u8) {
    out.push(field << 3 | kind);
}

/// Writes a number.
#[inline]
fn varint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        out.push(value as u8);
    } else {
        long_varint(out, value);
    }
}

/// Writes a number of two bytes or more.
fn long_varint(out: &mut Vec<u8>, mut value: u64) {
    let mut bytes = [0; VARINT_MAX];
    let mut length = 0;
    while value >= 0x80 {
        bytes[length] = value as u8 | 0x80;
        length += 1;
        value >>= 7;
    }
    bytes[length] = value as u8;
    out.extend_from_slice(&bytes[..=length]);
}

/// Returns how many bytes a number takes.
#[inline]
fn varint_length(value: usize) -> usize {
    (value | 1).ilog2() as usize / 7 + 1
}

/// Writes a field that is a number.
#[inline]
pub(crate) fn uint(out: &mut Vec<u8>, field: u8, value: u64) {
    tag(out, field, VARINT);
    varint(out, value);
}

/// Writes a field of 8 bytes.
#[inline]
pub(crate) fn fixed64(out: &mut Vec<u8>, field: u8, value: u64) {
    tag(out, field, FIXED_64);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes a field of 4 bytes. Its number may be up to 31.
pub(crate) fn fixed32(out: &mut Vec<u8>, field: u8, value: u32) {
    varint(out, u64::from(field) << 3 | u64::from(FIXED_32));
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes a field that is a text, bytes, or a message that is already written.
#[inline]
pub(crate) fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    tag(out, field, BYTES);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Writes a field that is a message. `fields` writes what is in it.
pub(crate) fn message(out: &mut Vec<u8>, field: u8, fields: impl FnOnce(&mut Vec<u8>)) {
    let at = open_message(out, field);
    fields(out);
    close_message(out, at);
}

/// Begins a message to which fields are added later. Returns where it begins.
pub(crate) fn open_message(out: &mut Vec<u8>, field: u8) -> usize {
    tag(out, field, BYTES);
    out.extend_from_slice(&[0; LENGTH]);
    out.len()
}

/// Ends the message that begins there. It may have up to 256 MiB.
pub(crate) fn close_message(out: &mut [u8], at: usize) {
    let mut length = out.len() - at;
    debug_assert!(length < 1 << (7 * LENGTH), "{length} bytes are too many");
    for byte in &mut out[at - LENGTH..at] {
        *byte = length as u8 | 0x80;
        length >>= 7;
    }
    out[at - 1] &= 0x7f;
}

/// Writes a field that is an attribute (`KeyValue` of OTLP).
pub(crate) fn attribute(out: &mut Vec<u8>, field: u8, key: &str, value: Value<'_>) {
    match value {
        Value::Text(text) => {
            let length = 1 + varint_length(text.len()) + text.len();
            key_and_value(out, field, key, length);
            bytes(out, 1, text.as_bytes());
        }
        Value::Hash(hash) => {
            key_and_value(out, field, key, 1 + 1 + 16);
            bytes(out, 1, &hex_digits::<8, 16>(hash.to_be_bytes()));
        }
        Value::Bool(is) => {
            key_and_value(out, field, key, 1 + 1);
            uint(out, 2, u64::from(is));
        }
        Value::Int(number) => {
            let number = number as u64;
            key_and_value(out, field, key, 1 + varint_length(number as usize));
            uint(out, 3, number);
        }
        Value::Float(number) => {
            key_and_value(out, field, key, 1 + 8);
            fixed64(out, 4, number.to_bits());
        }
    }
}

/// Writes an attribute up to its value (`AnyValue`), which has this length.
#[inline]
fn key_and_value(out: &mut Vec<u8>, field: u8, key: &str, value: usize) {
    let key_length = 1 + varint_length(key.len()) + key.len();
    let whole = key_length + 1 + varint_length(value) + value;
    out.reserve(1 + VARINT_MAX + whole);
    tag(out, field, BYTES);
    varint(out, whole as u64);
    bytes(out, 1, key.as_bytes());
    tag(out, 2, BYTES);
    varint(out, value as u64);
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Sent;
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use prost::Message;

    use super::*;

    #[test]
    fn attributes_of_all_kinds_and_lengths_are_read_as_they_were_written() {
        let long = "x".repeat(300);
        let values = [
            (Value::Text(""), Sent::StringValue(String::new())),
            (Value::Text("é"), Sent::StringValue("é".to_owned())),
            (Value::Text(&long), Sent::StringValue(long.clone())),
            (
                Value::Hash(0xab),
                Sent::StringValue("00000000000000ab".to_owned()),
            ),
            (Value::Int(0), Sent::IntValue(0)),
            (Value::Int(300), Sent::IntValue(300)),
            (Value::Int(-1), Sent::IntValue(-1)),
            (Value::Int(i64::MAX), Sent::IntValue(i64::MAX)),
            (Value::Float(0.25), Sent::DoubleValue(0.25)),
            (Value::Bool(true), Sent::BoolValue(true)),
        ];
        for key in ["", "key", &"k".repeat(200)] {
            let mut out = Vec::new();
            for (value, _) in &values {
                attribute(&mut out, 1, key, *value);
            }
            let read = Resource::decode(&*out).unwrap();
            assert_eq!(read.attributes.len(), values.len());
            for (read, (_, expected)) in read.attributes.iter().zip(&values) {
                assert_eq!(read.key, key);
                assert_eq!(read.value.as_ref().unwrap().value.as_ref(), Some(expected));
            }
        }
    }

    #[test]
    fn a_message_whose_length_is_added_later_is_read_like_any_other() {
        use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
        use opentelemetry_proto::tonic::trace::v1::ScopeSpans;

        for length in [0, 1, 127, 128, 16_384, 3_000_000] {
            let name = "n".repeat(length);
            let mut out = Vec::new();
            message(&mut out, 1, |out| bytes(out, 1, name.as_bytes()));
            let read = ScopeSpans::decode(&*out).unwrap();
            let name = InstrumentationScope {
                name,
                ..InstrumentationScope::default()
            };
            assert_eq!(read.scope, Some(name));
        }
    }
}
