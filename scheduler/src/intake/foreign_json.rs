//! JSON that another program wrote. One wrong value in it affects only the item that it is in: an
//! array is read item by item, and text that is not Unicode is replaced. Knows neither bounces nor
//! mail services.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The byte order mark that some programs write before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An escape like `\u00e9`, in bytes.
const ESCAPE: usize = 6;

/// The escape of U+FFFD. It replaces an escape of half a surrogate pair.
const REPLACEMENT: &[u8; ESCAPE] = br"\ufffd";

/// Returns the text without the byte order mark that some programs write before it.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// Reads one value. What is not Unicode in its texts is replaced by U+FFFD: bytes that are not
/// UTF-8, and escapes of half a character (`\ud83d` alone), which programs write that cut a text in
/// the middle of an emoji.
///
/// # Errors
/// If the text is not JSON all the same.
pub(crate) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    let text = without_mark(text);
    serde_json::from_slice(text).or_else(|err| match mended(text) {
        Cow::Owned(mended) => serde_json::from_slice(&mended),
        Cow::Borrowed(_) => Err(err),
    })
}

/// Reads a body that is an array of values, or a single value. A value of the array that cannot be
/// read is an error of its own.
///
/// # Errors
/// If no value of the body can be read. The text explains why.
pub(crate) fn read_each(body: &[u8]) -> Result<Vec<Result<Value, String>>, String> {
    let why = match read(body) {
        Ok(Value::Array(values)) => return Ok(values.into_iter().map(Ok).collect()),
        Ok(value) => return Ok(vec![Ok(value)]),
        Err(err) => format!("the body is not JSON: {err}"),
    };
    let each = items(without_mark(body), usize::MAX).ok_or_else(|| why.clone())?;
    let read_one = |text: &[u8]| read(text).map_err(|err| format!("it is not JSON: {err}"));
    let values: Vec<Result<Value, String>> = each.into_iter().map(read_one).collect();
    if values.iter().any(Result::is_ok) {
        Ok(values)
    } else {
        Err(why)
    }
}

/// Returns the texts of the items of an array, at most `max` and one more. They need not be valid.
/// Returns `None` if the text is not an array in which all brackets and quotes match.
pub(crate) fn items(array: &[u8], max: usize) -> Option<Vec<&[u8]>> {
    let inner = array.trim_ascii().strip_prefix(b"[")?.strip_suffix(b"]")?;
    if inner.trim_ascii().is_empty() {
        return Some(Vec::new());
    }
    let mut found = Vec::new();
    let (mut start, mut depth) = (0, 0_usize);
    let (mut in_text, mut is_escaped) = (false, false);
    for (at, byte) in inner.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_text,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                found.push(inner[start..at].trim_ascii());
                start = at + 1;
                if found.len() > max {
                    return Some(found);
                }
            }
            _ => {}
        }
    }
    found.push(inner[start..].trim_ascii());
    (depth == 0 && !in_text).then_some(found)
}

/// Returns the text with U+FFFD for everything that is not Unicode.
pub(crate) fn mended(json: &[u8]) -> Cow<'_, [u8]> {
    let mut mended = match String::from_utf8_lossy(json) {
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        Cow::Borrowed(_) => Cow::Borrowed(json),
    };
    let mut at = 0;
    while let Some(next) = mended[at..].iter().position(|byte| *byte == b'\\') {
        at += next;
        match surrogate(&mended[at..]) {
            Some(Half::First)
                if matches!(
                    mended.get(at + ESCAPE..).and_then(surrogate),
                    Some(Half::Second)
                ) =>
            {
                at += 2 * ESCAPE;
            }
            Some(_) => {
                mended.to_mut()[at..at + ESCAPE].copy_from_slice(REPLACEMENT);
                at += ESCAPE;
            }
            // The character after a backslash belongs to it.
            None => at = (at + 2).min(mended.len()),
        }
    }
    mended
}

/// Half of a character beyond U+FFFF, which JSON escapes as two surrogates (RFC 8259, section 7).
enum Half {
    First,
    Second,
}

/// Returns which surrogate the escape at the start of the text is, if it is one.
fn surrogate(text: &[u8]) -> Option<Half> {
    let digits = text.get(..ESCAPE)?.strip_prefix(br"\u")?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    match u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()? {
        0xd800..=0xdbff => Some(Half::First),
        0xdc00..=0xdfff => Some(Half::Second),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_unicode_is_replaced() {
        for (text, expected) in [
            (r#"["a\ud83d"]"#.as_bytes(), "a\u{fffd}"),
            (br#"["\ud83da"]"#, "\u{fffd}a"),
            (br#"["\ude00"]"#, "\u{fffd}"),
            (br#"["\ud83d\ud83d\ude00"]"#, "\u{fffd}😀"),
            (br#"["\ude00\ud83d"]"#, "\u{fffd}\u{fffd}"),
            (br#"["\\ud83d \ud83d"]"#, "\\ud83d \u{fffd}"),
            (b"[\"caf\xe9\"]", "caf\u{fffd}"),
            (b"\xef\xbb\xbf[\"a\"]", "a"),
            (br#"["\ud83d\ude00"]"#, "😀"),
        ] {
            let read: Value = read(text).unwrap();
            assert_eq!(read, json!([expected]), "{}", text.escape_ascii());
        }
        for text in [&b""[..], b"[", br#"["\ud8"]"#, br#"["\x"]"#, b"\\", br"\u"] {
            assert!(read::<Value>(text).is_err(), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_wrong_item_of_an_array_affects_no_other() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        let array = format!(r#"[1, {deep}, {{"a": "],[\"}}"}}, {{a}}, 1e999, "\ud83d", tru]"#);
        let values = read_each(array.as_bytes()).unwrap();
        let read: Vec<Option<&Value>> = values.iter().map(|value| value.as_ref().ok()).collect();
        assert_eq!(
            read,
            [
                Some(&json!(1)),
                None,
                Some(&json!({"a": "],[\"}"})),
                None,
                None,
                Some(&json!("\u{fffd}")),
                None
            ]
        );
        for whole in ["{", "[1", "[1]]", "[{a}]", "[\"]", "[1, \"]"] {
            assert!(read_each(whole.as_bytes()).is_err(), "{whole}");
        }
        assert_eq!(read_each(b" [] ").unwrap(), []);
        assert_eq!(read_each(b"7").unwrap(), [Ok(json!(7))]);
    }

    #[test]
    fn no_more_items_are_kept_than_asked_for() {
        assert_eq!(items(b"[1,2,3,4]", 2).unwrap().len(), 3);
    }
}
