//! Text that somebody else wrote, cut to what is kept of it.

use std::borrow::Cow;

use crate::bounds::MAX_NAME;

/// What is said on one line, within bounds.
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

/// A name that someone else chose, on one line and within bounds; `None` where nothing is left of
/// it.
pub(crate) fn name(text: &str) -> Option<String> {
    let name = on_one_line(text, MAX_NAME);
    (!name.is_empty()).then_some(name)
}

/// Whether an id was text as it came. Ids of other bytes would all become the same, so they name
/// nothing.
pub(crate) fn is_readable(id: &str) -> bool {
    !id.contains(char::REPLACEMENT_CHARACTER)
}

/// Whether `text` begins with `opening`, in whatever case.
pub(crate) fn begins_with(text: &str, opening: &str) -> bool {
    text.get(..opening.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(opening))
}

/// `text` cut to at most `max` bytes, between characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    &text[..end]
}

/// Bytes of any charset as text that can be searched.
pub(crate) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
