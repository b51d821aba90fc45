//! Reads the field `content` of a bounce: the message itself, or the place where it is.

use domain::job::{CONTENT_SCHEMES, ContentRef, is_content_url, is_empty_content};
use serde_json::Value;

use super::field::TEXT_MAX;
use super::refusal::Refusal;

/// Reads `{"inline": …}`, `{"file": …}` or `{"url": …}`. `inline_max` bounds inline content
/// in bytes.
pub(super) fn content(
    value: Option<Value>,
    inline_max: usize,
) -> Result<Option<ContentRef>, Refusal> {
    let refuse = |field: &str, reason: String| Err(Refusal::of_field(field, None, reason));
    let allowed = r#"must be {"inline": "…"}, {"file": "/path"} or {"url": "s3://bucket/key"}"#;
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(mut map)) if map.len() == 1 && map.contains_key("url") => {
            let url = map
                .remove("url")
                .and_then(|url| url.as_str().map(str::to_owned))
                .unwrap_or_default();
            if url.len() <= TEXT_MAX && is_content_url(&url) {
                Ok(Some(ContentRef::Url(url)))
            } else {
                let schemes = CONTENT_SCHEMES.join("://, ");
                refuse(
                    "content.url",
                    format!(
                        "must be a {schemes}:// URL without user, query and fragment, \
                         of at most {TEXT_MAX} bytes"
                    ),
                )
            }
        }
        Some(Value::Object(mut map)) if map.len() == 1 => {
            match (map.remove("inline"), map.remove("file")) {
                (Some(Value::String(text)), _) if text.len() > inline_max => refuse(
                    "content.inline",
                    format!("is longer than {inline_max} bytes; put it into a file"),
                ),
                (Some(Value::String(text)), _) if is_empty_content(text.as_bytes()) => refuse(
                    "content.inline",
                    "is empty; leave content out if the platform keeps the message".to_owned(),
                ),
                (Some(Value::String(text)), _) => Ok(Some(ContentRef::Inline(text))),
                (_, Some(Value::String(path)))
                    if path.starts_with('/') && path.len() <= TEXT_MAX && !path.contains('\0') =>
                {
                    Ok(Some(ContentRef::File(path)))
                }
                (_, Some(_)) => refuse(
                    "content.file",
                    format!("must be an absolute path of at most {TEXT_MAX} bytes"),
                ),
                _ => refuse("content", allowed.to_owned()),
            }
        }
        Some(_) => refuse("content", allowed.to_owned()),
    }
}
