//! Reads the table of reasons. It ships with the program, so the tests find any fault in it.

use typed_toml::fault::{SettingsFault, SettingsFaults};
use typed_toml::section::Section;

use super::texts::Texts;
use super::words::Words;
use super::words::load::words;
use super::{REASONS, ROWS_MAX, Reason, Reasons, Row};

/// What `…` in a text means: anything up to the end of a sentence. A sentence ends at a
/// semicolon, or at a full stop that is followed by white space.
const WITHIN_SENTENCE: &str = r"(?:[^.;]|\.\S)*";

/// Reads the rows in order. Reports all faults at once.
pub(super) fn reasons(toml: &str) -> Result<Reasons, SettingsFaults> {
    const FILE: &str = "reasons.toml";
    let (words, ours) = words()?;
    let mut faults = Vec::new();
    let (mut rows, mut texts) = (Vec::new(), Vec::new());
    match toml::from_str::<toml::Table>(toml) {
        Ok(table) => {
            let mut top = Section::new(FILE, "", &table, &mut faults);
            let tables = top.tables("row");
            let notice = format!(
                r"(?:[[:punct:]\s\d]|\S*@\S*|\b(?:{})\b)*",
                top.texts("notice").join("|")
            );
            let one_of = |phrases: Vec<&str>| format!("(?:{})", phrases.join("|"));
            let names = [
                ("…", WITHIN_SENTENCE.to_owned()),
                ("‹notice›", notice),
                ("‹failed›", one_of(top.texts("failed"))),
                ("‹recipients›", one_of(top.texts("recipients"))),
            ];
            top.finish();
            for (n, table) in tables.into_iter().enumerate() {
                let section = Section::new(FILE, format!("row.#{}", n + 1), table, &mut faults);
                rows.extend(read_row(section, &names, &words, &mut texts));
            }
        }
        Err(err) => faults.push(SettingsFault::syntax(FILE, toml, &err)),
    }
    if rows.len() > ROWS_MAX {
        let text = format!("{} rows; at most {ROWS_MAX} are allowed", rows.len());
        faults.push(SettingsFault {
            file: FILE.to_owned(),
            key: "row".to_owned(),
            text,
        });
    }
    texts.push(ours);
    let texts = Texts::new(texts).map_err(|text| {
        faults.push(SettingsFault {
            file: FILE.to_owned(),
            key: "text".to_owned(),
            text,
        });
    });
    texts
        .ok()
        .filter(|_| faults.is_empty())
        .map(|texts| Reasons::new(texts, words, rows))
        .ok_or(SettingsFaults(faults))
}

/// Reads one row. Appends its texts to those of the rows before it.
fn read_row(
    mut section: Section<'_, '_>,
    names: &[(&str, String)],
    words: &Words,
    texts: &mut Vec<String>,
) -> Option<Row> {
    let reason = section.choice("reason", REASONS);
    let mut status = Vec::new();
    for pattern in section.texts("status") {
        match pattern.parse() {
            Ok(pattern) => status.push(pattern),
            Err(why) => section.fault("status", format!("\"{pattern}\": {why}")),
        }
    }
    let alternatives = section.texts("text");
    let in_words = meanings(&mut section, "words", words);
    let in_english = meanings(&mut section, "english", words);
    let unless = meanings(&mut section, "unless", words);
    if alternatives.is_empty() && status.is_empty() && in_words | in_english == 0 {
        section.fault("text", "a row needs a text, words or a status");
    }
    let first = texts.len();
    let spelled_out = |text: &str| {
        names.iter().fold(text.to_owned(), |text, (name, words)| {
            text.replace(name, words)
        })
    };
    texts.extend(alternatives.into_iter().map(spelled_out));
    let range = first..texts.len();
    if reason.is_none() || section.texts("example").is_empty() {
        section.fault("reason", "a row needs a reason and an example");
    }
    let after_content = section.switch("after_content").unwrap_or(false);
    section.finish();
    Some(Row {
        reason: reason?,
        texts: range,
        words: in_words,
        english: in_english,
        unless,
        status,
        after_content,
    })
}

/// Reads a list of meanings as a bit set.
fn meanings(section: &mut Section<'_, '_>, key: &'static str, words: &Words) -> u32 {
    let mut meanings = 0;
    for name in section.texts(key) {
        match words.meaning(name) {
            Some(meaning) => meanings |= meaning,
            None => section.fault(key, format!("there is no meaning \"{name}\"")),
        }
    }
    meanings
}

/// An example of a row.
pub(super) struct Example {
    /// The reason of the row.
    #[cfg_attr(not(test), expect(dead_code, reason = "only the tests compare it"))]
    pub(super) reason: Reason,
    pub(super) text: String,
    /// Whether only the word lists of the languages know it.
    pub(super) is_by_words: bool,
}

/// Returns the examples of all rows.
pub(super) fn examples(toml: &str) -> Vec<Example> {
    let table: toml::Table = toml::from_str(toml).unwrap_or_default();
    let mut faults = Vec::new();
    let rows = Section::new("", "", &table, &mut faults).tables("row");
    let mut examples = Vec::new();
    for row in rows {
        let mut section = Section::new("", "", row, &mut faults);
        let is_by_words = !section.has("text") && (section.has("words") || section.has("english"));
        if let Some(reason) = section.choice("reason", REASONS) {
            examples.extend(section.texts("example").into_iter().map(|text| Example {
                reason,
                text: text.to_owned(),
                is_by_words,
            }));
        }
    }
    examples
}
