//! Cleans the text of a raw reply: folds white space, and keeps its lines apart. Must not know
//! about codes and statuses.

use std::borrow::Cow;

/// Folds white space and control characters into single spaces, and line ends into single `\n`. Log
/// pipelines write a line end as the two characters backslash and letter, so these count as line
/// ends too. Most replies are already folded, and are returned unchanged.
pub(super) fn fold(raw: &str) -> Cow<'_, str> {
    let bytes = raw.as_bytes();
    // The loops have no early exit, so that the compiler can process many bytes per step.
    let is_odd = bytes.iter().fold(false, |is_odd, b| {
        is_odd | !(b' '..=b'~').contains(b) | (*b == b'\\')
    });
    let has_two_spaces = bytes.windows(2).fold(false, |found, pair| {
        found | (pair[0] == b' ') & (pair[1] == b' ')
    });
    let has_outer_space = bytes.first() == Some(&b' ') || bytes.last() == Some(&b' ');
    if !is_odd && !has_two_spaces && !has_outer_space {
        return Cow::Borrowed(raw);
    }
    let unescaped;
    let raw = if bytes.contains(&b'\\') {
        unescaped = raw.replace(r"\r\n", "\n").replace(r"\n", "\n");
        &unescaped
    } else {
        raw
    };
    let mut folded = String::with_capacity(raw.len());
    // The separator to write before the next character.
    let mut gap = None;
    for c in raw.chars() {
        match c {
            '\r' | '\n' => gap = Some('\n'),
            _ if c.is_whitespace() || c.is_control() => gap = gap.or(Some(' ')),
            _ => {
                folded.extend(gap.take().filter(|_| !folded.is_empty()));
                folded.push(c);
            }
        }
    }
    Cow::Owned(folded)
}
