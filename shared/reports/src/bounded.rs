//! Cuts text from other systems to the part that is kept.

use std::borrow::Cow;

use crate::bounds::MAX_NAME;

/// Returns the text on one line, with at most `max` bytes.
pub(crate) fn on_one_line(text: &str, max: usize) -> String {
    let mut line = String::new();
    for word in text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
    {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(cut(word, max.saturating_sub(line.len())));
        if line.len() + 1 >= max {
            break;
        }
    }
    line.truncate(cut(&line, max).trim_end().len());
    line
}

/// Returns a name that another system chose, on one line and within the limit. Returns `None` if
/// nothing of it remains.
pub(crate) fn name(text: &str) -> Option<String> {
    let name = on_one_line(text, MAX_NAME);
    (!name.is_empty()).then_some(name)
}

/// Whether an id was readable text. Bytes that are not text become the same replacement character,
/// so an id with such bytes identifies nothing.
pub(crate) fn is_readable(id: &str) -> bool {
    !id.contains(char::REPLACEMENT_CHARACTER)
}

/// Whether `text` begins with `opening`, in upper or lower case.
pub(crate) fn begins_with(text: &str, opening: &str) -> bool {
    text.get(..opening.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(opening))
}

/// Returns `text` cut to at most `max` bytes, at a character boundary.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    &text[..end]
}

/// Converts bytes of any charset to text that can be searched.
pub(crate) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
