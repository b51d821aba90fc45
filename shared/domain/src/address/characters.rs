//! Which characters beyond ASCII a local part may contain: those of the FreeformClass of PRECIS
//! (RFC 8264, section 4.3), without its spaces. RFC 6531 allows all characters. But some would make
//! two addresses look the same, or reverse the text of a line on a console.

use icu_properties::props::{
    CanonicalCombiningClass, DefaultIgnorableCodePoint, GeneralCategory, JoiningType,
};
use icu_properties::{CodePointMapData, CodePointSetData};

/// Decoders write this character in place of bytes that are not text. So the real address was a
/// different one.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

const ZERO_WIDTH_NON_JOINER: char = '\u{200c}';
const ZERO_WIDTH_JOINER: char = '\u{200d}';

/// Whether each character of the text is ASCII or visible. The two joiners are allowed as in
/// domains (RFC 5892, appendix A): only where Persian and the scripts of India need them.
pub(super) fn are_visible(text: &str) -> bool {
    text.char_indices().all(|(at, c)| match c {
        ZERO_WIDTH_JOINER => is_after_virama(&text[..at]),
        ZERO_WIDTH_NON_JOINER => {
            let (before, after) = (&text[..at], &text[at + c.len_utf8()..]);
            is_after_virama(before) || parts_joined_letters(before, after)
        }
        _ => c.is_ascii() || is_visible(c),
    })
}

/// Whether a character is a letter, a mark, a number, punctuation or a symbol.
fn is_visible(c: char) -> bool {
    use GeneralCategory::{
        Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, SpaceSeparator, Surrogate,
        Unassigned,
    };
    let has_no_shape = matches!(
        CodePointMapData::<GeneralCategory>::new().get(c),
        Control
            | Format
            | LineSeparator
            | ParagraphSeparator
            | PrivateUse
            | SpaceSeparator
            | Surrogate
            | Unassigned
    );
    !has_no_shape
        && c != REPLACEMENT
        && !CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

/// Whether the text ends with a virama, the sign that removes the vowel from a letter of an Indic
/// script.
fn is_after_virama(text: &str) -> bool {
    let class = CodePointMapData::<CanonicalCombiningClass>::new();
    text.chars()
        .next_back()
        .is_some_and(|c| class.get(c) == CanonicalCombiningClass::Virama)
}

/// Whether the last letter before and the first letter after would be joined in a cursive script.
fn parts_joined_letters(before: &str, after: &str) -> bool {
    let kinds = CodePointMapData::<JoiningType>::new();
    let is_opaque = |kind: &JoiningType| *kind != JoiningType::Transparent;
    let last = before.chars().rev().map(|c| kinds.get(c)).find(is_opaque);
    let first = after.chars().map(|c| kinds.get(c)).find(is_opaque);
    let joins_on = last
        .is_some_and(|kind| [JoiningType::LeftJoining, JoiningType::DualJoining].contains(&kind));
    joins_on
        && first.is_some_and(|kind| {
            [JoiningType::RightJoining, JoiningType::DualJoining].contains(&kind)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_parts_in_many_scripts_are_visible() {
        for text in [
            "jo",
            "rémi",
            "用户",
            "ユーザー",
            "사용자",
            "иван",
            "γιώργος",
            "דוד",
            "محمد",
            "उपयोगकर्ता",
            "பயனர்",
            "ผู้ใช้",
            "ἀλέξανδρος",
            "đỗ",
            "łukasz",
            "naïve.œuvre",
            "o’neil",
            "straße",
            "Ⅷ",
            "☃",
            "🙂",
            "𠮷野",
            // Persian "mi-khaham", and conjuncts of Malayalam and Sinhala.
            "می\u{200c}خواهم",
            "ക്\u{200d}",
            "ශ්\u{200d}රී",
            "क्\u{200c}ष",
        ] {
            assert!(are_visible(text), "{text} {}", text.escape_unicode());
        }
    }

    #[test]
    fn invisible_and_confusable_characters_are_not_visible() {
        for c in [
            // Tags, which spell ASCII text invisibly.
            '\u{e0001}',
            '\u{e0020}',
            '\u{e0041}',
            '\u{e007f}',
            // Marks that control the direction of text.
            '\u{61c}',
            '\u{200b}',
            '\u{200e}',
            '\u{200f}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{feff}',
            '\u{fff9}',
            // Ignored by default: soft hyphen, grapheme joiner, fillers, variation selectors,
            // musical formats.
            '\u{ad}',
            '\u{34f}',
            '\u{115f}',
            '\u{1160}',
            '\u{17b4}',
            '\u{180b}',
            '\u{180e}',
            '\u{3164}',
            '\u{ffa0}',
            '\u{fe00}',
            '\u{fe0f}',
            '\u{1d173}',
            '\u{e0100}',
            '\u{e01ef}',
            // Spaces, controls, private use, unassigned code points, noncharacters.
            '\u{a0}',
            '\u{1680}',
            '\u{2000}',
            '\u{2028}',
            '\u{2029}',
            '\u{3000}',
            '\u{85}',
            '\u{e000}',
            '\u{f8ff}',
            '\u{10fffd}',
            '\u{378}',
            '\u{fdd0}',
            '\u{ffff}',
            '\u{10ffff}',
            // The replacement for bytes that could not be decoded.
            '\u{fffd}',
            // Joiners that join nothing.
            '\u{200c}',
            '\u{200d}',
        ] {
            for text in [format!("j{c}o"), format!("{c}"), format!("用{c}户")] {
                assert!(!are_visible(&text), "{}", text.escape_unicode());
            }
        }
    }
}
