//! Makes texts comparable: lower case, and letters without their marks. Word lists and replies are
//! folded in the same way.

use std::sync::LazyLock;

/// Letters that become another one, for each letter that they become.
const PLAIN: [(&str, &str); 40] = [
    ("a", "àáâãäåāăąạảấầẩẫậắằẳẵặ"),
    ("ae", "æ"),
    ("c", "çćĉċč"),
    ("d", "ďđð"),
    ("e", "èéêëēĕėęěẹẻẽếềểễệ"),
    ("g", "ĝğġģ"),
    ("h", "ĥħ"),
    ("i", "ìíîïĩīĭįıỉị"),
    ("j", "ĵ"),
    ("k", "ķ"),
    ("l", "ĺļľł"),
    ("n", "ñńņň"),
    ("o", "òóôõöøōŏőơọỏốồổỗộớờởỡợ"),
    ("oe", "œ"),
    ("r", "ŕŗř"),
    ("s", "śŝşšș"),
    ("ss", "ß"),
    ("t", "ţťŧț"),
    ("u", "ùúûüũūŭůűųưụủứừửữự"),
    ("w", "ŵ"),
    ("y", "ýÿŷỳỵỷỹ"),
    ("z", "źżž"),
    ("α", "ά"),
    ("ε", "έ"),
    ("η", "ή"),
    ("ι", "ίϊΐ"),
    ("ο", "ό"),
    ("υ", "ύϋΰ"),
    ("ω", "ώ"),
    ("σ", "ς"),
    ("е", "ёѐ"),
    ("и", "ѝ"),
    ("'", "’‘ʼ`´"),
    ("-", "‐‑–—"),
    (" ", "\u{a0}\u{3000}"),
    (". ", "。．"),
    ("; ", "；"),
    ("! ", "！"),
    ("? ", "？"),
    (": ", "："),
];

/// Returns the folded text. Takes linear time. The result has at most three times as many bytes.
pub(super) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let mut folded = String::with_capacity(text.len());
    for letter in text.chars().flat_map(char::to_lowercase) {
        match letter {
            _ if letter.is_ascii() => folded.push(letter),
            // Marks that were written apart from their letter.
            '\u{300}'..='\u{36f}' => {}
            '\u{ff01}'..='\u{ff5e}' if plain(letter).is_none() => {
                folded.push(char::from_u32(u32::from(letter) - 0xfee0).unwrap_or(letter));
            }
            _ => match plain(letter) {
                Some(plain) => folded.push_str(plain),
                None => folded.push(letter),
            },
        }
    }
    folded
}

/// The letters of [`PLAIN`] up to the end of the Latin blocks, by number.
static BY_NUMBER: LazyLock<Vec<Option<&'static str>>> = LazyLock::new(|| {
    let mut letters = vec![None; BY_NUMBER_MAX];
    for (plain, marked) in PLAIN {
        for letter in marked.chars() {
            if let Some(entry) = letters.get_mut(letter as usize) {
                *entry = Some(plain);
            }
        }
    }
    letters
});

/// The number after the last letter in [`BY_NUMBER`]: punctuation of scripts without spaces.
const BY_NUMBER_MAX: usize = 0x3040;

/// Full-width punctuation, which is far behind all others.
const FULL_WIDTH: std::ops::RangeInclusive<char> = '\u{ff01}'..='\u{ff1f}';

fn plain(letter: char) -> Option<&'static str> {
    if FULL_WIDTH.contains(&letter) {
        let found = PLAIN.iter().find(|(_, letters)| letters.contains(letter));
        return found.map(|(plain, _)| *plain);
    }
    *BY_NUMBER.get(letter as usize)?
}

/// Returns the text with the words apart that are written as one: `RecipientNotFound` and
/// `user_unknown`. Returns `None` if there are none.
pub(super) fn split_words(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let starts = |pair: &[u8]| pair[0].is_ascii_lowercase() & pair[1].is_ascii_uppercase();
    // The loops have no early exit, so that the compiler can process many bytes per step.
    let has_mark = bytes
        .iter()
        .fold(false, |found, byte| found | (*byte == b'_'));
    if !has_mark
        && !bytes
            .windows(2)
            .fold(false, |found, pair| found | starts(pair))
    {
        return None;
    }
    let mut split = String::with_capacity(text.len() + 16);
    let mut before = ' ';
    for letter in text.chars() {
        if before.is_ascii_lowercase() && letter.is_ascii_uppercase() {
            split.push(' ');
        }
        split.push(if letter == '_' { ' ' } else { letter });
        before = letter;
    }
    Some(split)
}

/// Returns the spelling of a word without its marks that many mail systems use: `ae` for `ä`. The
/// result is not folded. Returns `None` if there is no such spelling.
pub(super) fn spelled_out(word: &str) -> Option<String> {
    let pairs = [
        ("ä", "ae"),
        ("ö", "oe"),
        ("ü", "ue"),
        ("ø", "oe"),
        ("å", "aa"),
    ];
    let spelled = pairs
        .iter()
        .fold(word.to_lowercase(), |word, (letter, pair)| {
            word.replace(letter, pair)
        });
    (spelled != word.to_lowercase()).then_some(spelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_folded_to_lower_case_without_marks() {
        for (text, folded) in [
            ("User Unknown", "user unknown"),
            ("Größe ÜBERSCHRITTEN", "grosse uberschritten"),
            ("n’existe", "n'existe"),
            ("łódź ŁÓDŹ", "lodz lodz"),
            ("e\u{301}te\u{301}", "ete"),
            ("Χρήστης", "χρηστησ"),
            ("Ещё", "еще"),
            ("İstanbul", "istanbul"),
            ("ＵＳＥＲ。ユーザー", "user. ユーザー"),
            ("Người nhận", "nguoi nhan"),
        ] {
            assert_eq!(fold(text), folded, "{text}");
        }
    }

    #[test]
    fn words_that_are_written_as_one_are_split() {
        for (text, split) in [
            (
                "RESOLVER.ADR.RecipientNotFound; x",
                Some("RESOLVER.ADR.Recipient Not Found; x"),
            ),
            ("user_unknown", Some("user unknown")),
            ("user unknown", None),
            ("USER UNKNOWN", None),
        ] {
            assert_eq!(split_words(text).as_deref(), split, "{text}");
        }
    }
}
