//! The wording of reports by mail system: the table `dialects.toml`, read once.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::Deserialize;

const TABLE: &str = include_str!("dialects.toml");

/// Matches an address within a text: just enough to separate it from the text around it.
const ADDRESS: &str = r#"(?P<addr>[^\s<>()\[\]:;,"'@]+@[A-Za-z0-9.-]+)"#;

static DIALECTS: LazyLock<Vec<Dialect>> =
    LazyLock::new(|| read(TABLE).expect("the tests read the table"));

/// The wording of one family of mail systems.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// The name of the family. Its fixture has the same name.
    #[cfg(test)]
    pub(crate) name: String,
    /// Words that only these mail systems write. Empty for the dialect of all others.
    phrases: Vec<String>,
    /// Recipients follow after a line with one of these. If empty, they may be anywhere.
    after: Vec<String>,
    /// The shapes of lines that name a recipient.
    recipient: Vec<Regex>,
    /// Whether the text about a recipient may come before it.
    pub(crate) before: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    shapes: HashMap<String, String>,
    dialect: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "it is only for people and for the fixtures")
    )]
    name: String,
    phrases: Vec<String>,
    #[serde(default)]
    after: Vec<String>,
    recipient: Vec<String>,
    #[serde(default)]
    before: bool,
}

/// Returns the dialect of a report, given its sender, subject and text in lower case. The last
/// dialect, `any`, is for all others.
pub(crate) fn dialect_of(report: &str) -> &'static Dialect {
    let dialects = &*DIALECTS;
    let known = dialects.iter().find(|dialect| {
        dialect
            .phrases
            .iter()
            .any(|words| report.contains(words.as_str()))
    });
    known.or(dialects.last()).expect("the table has rows")
}

/// Returns the names of all dialects.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    DIALECTS.iter().map(|dialect| dialect.name.as_str())
}

impl Dialect {
    /// Whether this is the dialect for unknown mail systems.
    pub(crate) fn is_any(&self) -> bool {
        self.phrases.is_empty()
    }

    /// Whether recipients can follow after this line, given in lower case.
    pub(crate) fn opens(&self, line: &str) -> bool {
        self.after.is_empty() || self.after.iter().any(|words| line.contains(words.as_str()))
    }

    /// Returns the recipient that a line names, and the text about it on that line.
    pub(crate) fn recipient<'t>(&self, line: &'t str) -> Option<(&'t str, &'t str)> {
        let captures: Captures<'t> = self
            .recipient
            .iter()
            .find_map(|shape| shape.captures(line))?;
        let text = captures
            .name("text")
            .map_or("", |text| text.as_str().trim());
        let address = captures.name("addr")?.as_str().trim_end_matches('.');
        Some((address, text))
    }
}

fn read(table: &str) -> Result<Vec<Dialect>, String> {
    let file: File = toml::from_str(table).map_err(|err| err.to_string())?;
    let compile = |name: &String| {
        let shape = file
            .shapes
            .get(name)
            .ok_or_else(|| format!("there is no shape {name}"))?;
        Regex::new(&shape.replace("{addr}", ADDRESS)).map_err(|err| format!("shape {name}: {err}"))
    };
    let dialect = |row: &Row| {
        Ok(Dialect {
            #[cfg(test)]
            name: row.name.clone(),
            phrases: row.phrases.clone(),
            after: row.after.clone(),
            recipient: row
                .recipient
                .iter()
                .map(compile)
                .collect::<Result<_, String>>()?,
            before: row.before,
        })
    };
    file.dialect.iter().map(dialect).collect()
}
