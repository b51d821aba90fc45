//! Reads the table of reasons. It ships with the program, so the tests find any fault in it.

use typed_toml::fault::{SettingsFault, SettingsFaults};
use typed_toml::section::Section;

use super::texts::Texts;
use super::{REASONS, ROWS_MAX, Reason, Reasons, Row};

/// What `…` in a text means: anything up to the end of a sentence. A sentence ends at a
/// semicolon, or at a full stop that is followed by white space.
const WITHIN_SENTENCE: &str = r"(?:[^.;]|\.\S)*";

/// Reads the rows in order. Reports all faults at once.
pub(super) fn reasons(toml: &str) -> Result<Reasons, SettingsFaults> {
    const FILE: &str = "reasons.toml";
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
                rows.extend(read_row(section, &names, &mut texts));
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
        .map(|texts| Reasons::new(texts, rows))
        .ok_or(SettingsFaults(faults))
}

/// Reads one row. Appends its texts to those of the rows before it.
fn read_row(
    mut section: Section<'_, '_>,
    names: &[(&str, String)],
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
    if alternatives.is_empty() && status.is_empty() {
        section.fault("text", "a row needs a text or a status");
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
        status,
        after_content,
    })
}

/// Returns the examples of all rows, each with the reason of its row.
pub(super) fn examples(toml: &str) -> Vec<(Reason, String)> {
    let table: toml::Table = toml::from_str(toml).unwrap_or_default();
    let mut faults = Vec::new();
    let rows = Section::new("", "", &table, &mut faults).tables("row");
    let mut examples = Vec::new();
    for row in rows {
        let mut section = Section::new("", "", row, &mut faults);
        if let Some(reason) = section.choice("reason", REASONS) {
            examples.extend(
                section
                    .texts("example")
                    .into_iter()
                    .map(|text| (reason, text.to_owned())),
            );
        }
    }
    examples
}
