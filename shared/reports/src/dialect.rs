//! How mail systems word their reports: the table `dialects.toml`, read once.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::Deserialize;

const TABLE: &str = include_str!("dialects.toml");

/// What an address looks like within a text: no more than is needed to tell it from what stands
/// around it.
const ADDRESS: &str = r#"(?P<addr>[^\s<>()\[\]:;,"'@]+@[A-Za-z0-9.-]+)"#;

static DIALECTS: LazyLock<Vec<Dialect>> =
    LazyLock::new(|| read(TABLE).expect("the tests read the table"));

/// The words of one family of mail systems.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// What the family is called: what its fixture is named by.
    #[cfg(test)]
    pub(crate) name: String,
    says: Vec<String>,
    after: Vec<String>,
    recipient: Vec<Regex>,
    /// Whether what was said about a recipient may stand before it.
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
        expect(dead_code, reason = "it is for people, and for the fixtures")
    )]
    name: String,
    says: Vec<String>,
    #[serde(default)]
    after: Vec<String>,
    recipient: Vec<String>,
    #[serde(default)]
    before: bool,
}

/// The dialect that is spoken, given sender, subject and text in lower case; the last one is `any`.
pub(crate) fn spoken(said: &str) -> &'static Dialect {
    let dialects = &*DIALECTS;
    let known = dialects.iter().find(|dialect| {
        dialect
            .says
            .iter()
            .any(|words| said.contains(words.as_str()))
    });
    known.or(dialects.last()).expect("the table has rows")
}

/// What the dialects are called.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    DIALECTS.iter().map(|dialect| dialect.name.as_str())
}

impl Dialect {
    /// Whether nothing is known of the mail system.
    pub(crate) fn is_any(&self) -> bool {
        self.says.is_empty()
    }

    /// Whether recipients stand after a line, given in lower case.
    pub(crate) fn opens(&self, line: &str) -> bool {
        self.after.is_empty() || self.after.iter().any(|words| line.contains(words.as_str()))
    }

    /// The recipient that a line names, and what the line says about it.
    pub(crate) fn recipient<'t>(&self, line: &'t str) -> Option<(&'t str, &'t str)> {
        let captures: Captures<'t> = self
            .recipient
            .iter()
            .find_map(|shape| shape.captures(line))?;
        let said = captures
            .name("said")
            .map_or("", |said| said.as_str().trim());
        let address = captures.name("addr")?.as_str().trim_end_matches('.');
        Some((address, said))
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
            says: row.says.clone(),
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
