//! Makes one text of what was handed on: white space folded, lines apart. Knows nothing of codes
//! and statuses.

use std::borrow::Cow;

/// Folds white space and control characters into single spaces, and line ends into single `\n`. Log
/// pipelines write a line end as backslash and letter, so these count too. Most replies come
/// folded.
pub(super) fn fold(raw: &str) -> Cow<'_, str> {
    let bytes = raw.as_bytes();
    // Without a way out amid the loop many bytes are looked at in one step.
    let odd = bytes.iter().fold(false, |odd, b| {
        odd | !(b' '..=b'~').contains(b) | (*b == b'\\')
    });
    let twice = bytes.windows(2).fold(false, |twice, pair| {
        twice | (pair[0] == b' ') & (pair[1] == b' ')
    });
    if !odd && !twice && bytes.first() != Some(&b' ') && bytes.last() != Some(&b' ') {
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
    // What is to stand before the next character.
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
