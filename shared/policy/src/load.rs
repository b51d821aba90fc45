//! Reads policy tables from TOML: the default table, and the user's file on top of it. Reports
//! every fault, not only the first.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use classify::reason::{REASONS, Reason};
use domain::account::Account;
use domain::destination::is_destination_name;
use domain::status::pattern::StatusPattern;
use regex::RegexBuilder;
use toml::{Table as Toml, Value};
use typed_toml::fault::{SettingsFault, SettingsFaults};
use typed_toml::section::Section;

use crate::jitter::Jitter;
use crate::ranking::Ranking;
use crate::row::{CLASSES, FINALS, HINTS, HintUse, Row, SCOPES, Scope};
use crate::table::Table;

const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);

/// The largest number of delays in a row.
const DELAYS_MAX: usize = 32;

/// The largest size of a row's compiled text pattern, in bytes. It limits the memory that a policy
/// file can take.
const TEXT_SIZE_MAX: usize = 1 << 20;

/// The values of `[defaults]`. Each file overrides those of the files before it.
struct Defaults {
    jitter: Jitter,
    hint: HintUse,
    hint_min: Duration,
    hint_max: Duration,
    hold: Duration,
    max_age: Duration,
    unavailable_for: Duration,
    unavailable_max: Duration,
    strikes: u32,
}

/// The default table's text: reference, documentation and data in one.
pub const DEFAULT: &str = include_str!("default.toml");

static DEFAULT_TABLE: LazyLock<Arc<Table>> = LazyLock::new(|| {
    let default = table(&[("default.toml", DEFAULT)]);
    Arc::new(default.expect("the tests load the default table"))
});

impl Table {
    /// Returns the table that ships with this version.
    pub fn embedded() -> Arc<Self> {
        DEFAULT_TABLE.clone()
    }

    /// Returns the table that ships with this version, changed by the rows of a file. `text` is the
    /// content of the file, and `name` is its name in faults. Reports all faults at once.
    pub fn with_file(name: &str, text: &str) -> Result<Self, SettingsFaults> {
        table(&[("default.toml", DEFAULT), (name, text)])
    }
}

/// Returns a note for each row of a file that replaces a built-in row and leaves out some of its
/// keys. Those keys then have their defaults, which is easily overlooked. A file that is not valid
/// gets no notes.
pub fn left_out(name: &str, text: &str) -> Vec<String> {
    let rows = |text: &str| {
        let toml = toml::from_str::<Toml>(text).unwrap_or_default();
        let rows = toml.get("row").and_then(Value::as_array).cloned();
        rows.unwrap_or_default()
    };
    let built_in = rows(DEFAULT);
    let note = |row: &Value| {
        let row_name = row.get("name")?;
        let before = built_in
            .iter()
            .find(|row| row.get("name") == Some(row_name))?;
        let left_out: Vec<String> = before
            .as_table()?
            .iter()
            .filter(|(key, _)| row.get(key.as_str()).is_none())
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        let row_name = row_name.as_str()?;
        (!left_out.is_empty()).then(|| {
            format!(
                "{name}: row.{row_name} replaces the built-in row as a whole, without its {}; \
                 add what should stay",
                left_out.join(", ")
            )
        })
    };
    rows(text).iter().filter_map(note).collect()
}

/// Reads the files in order. A row replaces an earlier row of the same name, or is added at the
/// end.
fn table(files: &[(&str, &str)]) -> Result<Table, SettingsFaults> {
    let mut faults = Vec::new();
    let mut rows: Vec<Row> = Vec::new();
    let mut defaults = Defaults {
        jitter: "±10%".parse().expect("the tests parse this constant"),
        hint: HintUse::Lengthen,
        hint_min: MINUTE,
        hint_max: DAY,
        hold: 15 * MINUTE,
        max_age: 30 * DAY,
        unavailable_for: 30 * DAY,
        unavailable_max: 180 * DAY,
        strikes: 3,
    };
    for (file, text) in files {
        let toml: Toml = match toml::from_str(text) {
            Ok(toml) => toml,
            Err(err) => {
                faults.push(SettingsFault::syntax(file, text, &err));
                continue;
            }
        };
        read_file(file, &toml, &mut defaults, &mut rows, &mut faults);
    }
    if !rows.iter().any(matches_everything) {
        let text = "no row matches every reply; one needs status = \"*\" and no other condition"
            .to_owned();
        let file = files.last().map_or("", |(file, _)| file).to_owned();
        faults.push(SettingsFault {
            file,
            key: "row".to_owned(),
            text,
        });
    }
    if !faults.is_empty() {
        return Err(SettingsFaults(faults));
    }
    Ok(Table {
        ranking: Ranking::new(&rows),
        rows,
        hint_bounds: (defaults.hint_min, defaults.hint_max),
        hold: defaults.hold,
        max_age: defaults.max_age,
        unavailable_for: defaults.unavailable_for,
        unavailable_max: defaults.unavailable_max,
        strikes: defaults.strikes,
    })
}

fn matches_everything(row: &Row) -> bool {
    row.status.contains(&StatusPattern::Any)
        && row.text.is_none()
        && row.reason.is_empty()
        && row.account.is_none()
        && row.stream.is_none()
        && row.destination.is_none()
}

fn read_file(
    file: &str,
    toml: &Toml,
    defaults: &mut Defaults,
    rows: &mut Vec<Row>,
    faults: &mut Vec<SettingsFault>,
) {
    let mut top = Section::new(file, "", toml, faults);
    let (section, tables) = (top.table("defaults"), top.tables("row"));
    top.finish();
    if let Some(section) = section {
        read_defaults(Section::new(file, "defaults", section, faults), defaults);
    }
    let mut names = Vec::new();
    for (n, table) in tables.into_iter().enumerate() {
        let label = table
            .get("name")
            .and_then(|name| name.as_str())
            .map_or(format!("#{}", n + 1), str::to_owned);
        let mut section = Section::new(file, format!("row.{label}"), table, faults);
        if names.contains(&label) {
            section.fault("name", "another row of this file has this name");
        }
        names.push(label);
        let Some(row) = read_row(section, defaults) else {
            continue;
        };
        match rows.iter_mut().find(|known| known.name == row.name) {
            Some(known) => *known = row,
            None => rows.push(row),
        }
    }
}

fn read_defaults(mut section: Section<'_, '_>, defaults: &mut Defaults) {
    let spans = MINUTE..=366 * DAY;
    if let Some(jitter) = read_jitter(&mut section) {
        defaults.jitter = jitter;
    }
    if let Some(hint) = section.choice("hint", &HINTS) {
        defaults.hint = hint;
    }
    for (key, target) in [
        ("hint_min", &mut defaults.hint_min),
        ("hint_max", &mut defaults.hint_max),
        ("hold", &mut defaults.hold),
        ("max_age", &mut defaults.max_age),
        ("unavailable_for", &mut defaults.unavailable_for),
        ("unavailable_max", &mut defaults.unavailable_max),
    ] {
        if let Some(span) = section.duration(key, spans.clone()) {
            *target = span;
        }
    }
    if let Some(strikes) = section.number("strikes", 1..=100) {
        defaults.strikes = u32::try_from(strikes).unwrap_or(u32::MAX);
    }
    if defaults.hint_min > defaults.hint_max {
        section.fault("hint_min", "is longer than hint_max");
    }
    if defaults.unavailable_for > defaults.unavailable_max {
        section.fault("unavailable_for", "is longer than unavailable_max");
    }
    section.finish();
}

/// Reads one row. Returns `None`, after reporting it, if the row lacks something that it must have.
fn read_row(mut section: Section<'_, '_>, defaults: &Defaults) -> Option<Row> {
    let name = section.text("name");
    if !name.is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    }) {
        section.fault(
            "name",
            "every row needs a name, of letters, digits and hyphens",
        );
    }
    let mut status = Vec::new();
    let patterns = section.texts("status");
    if patterns.is_empty() {
        section.fault(
            "status",
            "every row needs at least one status pattern, such as \"4.3.1\" or \"*\"",
        );
    }
    for pattern in patterns {
        match pattern.parse() {
            Ok(pattern) => status.push(pattern),
            Err(why) => section.fault("status", format!("\"{pattern}\": {why}")),
        }
    }
    let text = read_text(&mut section);
    let reason = read_reasons(&mut section);
    let account = read_account(&mut section);
    let stream = read_stream(&mut section);
    let destination = read_destination(&mut section);
    let scope = section.choice("scope", &SCOPES);
    let delays = section.durations("delays", &(Duration::from_secs(1)..=366 * DAY));
    if delays.len() > DELAYS_MAX {
        section.fault(
            "delays",
            format!("{} delays; at most {DELAYS_MAX} are allowed", delays.len()),
        );
    }
    let jitter = read_jitter(&mut section).unwrap_or(defaults.jitter);
    let hint = section.choice("hint", &HINTS).unwrap_or(defaults.hint);
    let hold = section.switch("hold").unwrap_or(false);
    if hold && delays.is_empty() {
        section.fault(
            "hold",
            "hold = true needs at least one delay, which is the time to wait",
        );
    }
    let end = section.choice("final", &FINALS);
    let declared_class = section.choice("class", &CLASSES);
    for key in ["scope", "final"] {
        if !section.has(key) {
            section.fault(key, format!("every row needs a {key}"));
        }
    }
    section.finish();
    let (scope, end) = (scope?, end?);
    let jitter = if scope == Scope::Host {
        jitter.never_early()
    } else {
        jitter
    };
    let name = name?.to_owned();
    Some(Row {
        name,
        status,
        text,
        reason,
        account,
        stream,
        destination,
        scope,
        delays,
        jitter,
        hint,
        hold,
        end,
        declared_class,
    })
}

fn read_account(section: &mut Section<'_, '_>) -> Option<String> {
    let name = section.text("account")?;
    match Account::parse(name) {
        Ok(_) => Some(name.to_owned()),
        Err(why) => {
            section.fault("account", format!("{name:?} is not an account: {why}"));
            None
        }
    }
}

fn read_stream(section: &mut Section<'_, '_>) -> Option<String> {
    let stream = section.text("stream")?;
    if stream.is_empty() || stream.chars().any(char::is_control) {
        section.fault(
            "stream",
            format!("{stream:?} is not a stream: it must be text without control characters"),
        );
    }
    Some(stream.to_owned())
}

/// Reads the one destination that a row may be limited to. A pattern is rejected: it would match
/// nothing.
fn read_destination(section: &mut Section<'_, '_>) -> Option<String> {
    let name = section.text("destination")?.to_lowercase();
    if !is_destination_name(&name) {
        let text = "is not a destination: write a domain like \"example.com\" or a provider; \
                    leave it out for all of them";
        section.fault("destination", format!("{name:?} {text}"));
    }
    Some(name)
}

fn read_jitter(section: &mut Section<'_, '_>) -> Option<Jitter> {
    let text = section.text("jitter")?;
    text.parse()
        .map_err(|why| section.fault("jitter", format!("\"{text}\": {why}")))
        .ok()
}

fn read_reasons(section: &mut Section<'_, '_>) -> Vec<Reason> {
    let words = section.texts("reason");
    let known = |word: &str| {
        REASONS
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, reason)| *reason)
    };
    if let Some(word) = words.iter().find(|word| known(word).is_none()) {
        let names: Vec<_> = REASONS.iter().map(|(name, _)| *name).collect();
        section.fault(
            "reason",
            format!("\"{word}\" is not one of {}", names.join(", ")),
        );
    }
    words.into_iter().filter_map(known).collect()
}

fn read_text(section: &mut Section<'_, '_>) -> Option<regex::Regex> {
    let text = section.text("text")?;
    let built = RegexBuilder::new(text)
        .case_insensitive(true)
        .size_limit(TEXT_SIZE_MAX)
        .build();
    built
        .map_err(|why| section.fault("text", format!("is not a regular expression: {why}")))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Class, Final};
    use domain::reply::Reply;

    #[test]
    fn a_file_replaces_rows_by_name_and_adds_others() {
        let table = Table::with_file(
            "mine.toml",
            r#"
            [[row]]
            name = "system-full"
            status = "4.3.1"
            scope = "host"
            delays = ["2h"]
            final = "unavailable"

            [[row]]
            name = "acme-at-example"
            status = "*"
            account = "acme"
            destination = "Example.com"
            scope = "route"
            delays = ["5m"]
            final = "message"
            "#,
        )
        .unwrap();
        let full = Reply::parse("452 4.3.1 full");
        assert_eq!(
            table.row(&full, "other", None, "example.com").delays,
            [Duration::from_secs(7_200)]
        );
        assert_eq!(
            table.row(&full, "acme", None, "example.com").name,
            "acme-at-example",
            "account and destination count more than the status"
        );
        assert_eq!(table.rows().len(), Table::embedded().rows().len() + 1);
    }

    #[test]
    fn the_class_of_a_row_may_differ_from_what_it_does() {
        let row = "[[row]]\nname = \"r\"\nstatus = \"5.9.9\"\nscope = \"mailbox\"\n\
                   delays = []\nfinal = \"unavailable\"\n";
        for (class, expected) in [
            ("", Class::Message),
            ("class = \"hard\"", Class::Hard),
            ("class = \"soft\"", Class::Soft),
        ] {
            let table = Table::with_file("t", &format!("{row}{class}")).unwrap();
            let row = table.row(&Reply::parse("550 5.9.9 no"), "", None, "");
            assert_eq!(
                (row.class(), row.end),
                (expected, Final::Unavailable),
                "{class:?}"
            );
        }
    }

    #[test]
    fn a_row_with_an_impossible_condition_is_rejected_and_the_fault_names_what_is_allowed() {
        for (text, key, allowed) in [
            ("account = \"a/b\"", "row.r.account", "A-Z a-z 0-9 . _ -"),
            ("account = \"\"", "row.r.account", "A-Z a-z 0-9 . _ -"),
            ("account = \"*\"", "row.r.account", "A-Z a-z 0-9 . _ -"),
            ("destination = \"*\"", "row.r.destination", "leave it out"),
            (
                "destination = \"*.example.com\"",
                "row.r.destination",
                "leave it out",
            ),
            ("destination = \"\"", "row.r.destination", "leave it out"),
            (
                "destination = \"jo@example.com\"",
                "row.r.destination",
                "leave it out",
            ),
            ("stream = \"\"", "row.r.stream", "control characters"),
            (
                "stream = \"a\\r\\nb\"",
                "row.r.stream",
                "control characters",
            ),
        ] {
            let row =
                "[[row]]\nname = \"r\"\nstatus = \"*\"\nscope = \"host\"\nfinal = \"message\"";
            let faults = Table::with_file("mine.toml", &format!("{row}\n{text}")).err();
            let faults = faults.unwrap_or_else(|| panic!("accepted: {text}"));
            let is_reported = faults
                .0
                .iter()
                .any(|fault| fault.key == key && fault.text.contains(allowed));
            assert!(is_reported, "{text}: {faults}");
        }
    }

    #[test]
    fn all_faults_of_a_file_are_reported_at_once() {
        let faults = Table::with_file(
            "mine.toml",
            r#"
            [defaults]
            jitter = "10"
            [[row]]
            name = "a"
            status = ["4.3.x", "4.3.1"]
            scope = "planet"
            delays = ["1h", "soon"]
            text = "("
            reason = ["spam", "sunspots"]
            class = "dead"
            colour = "red"
            [[row]]
            status = "4.3.1"
            scope = "host"
            final = "unavailable"
            "#,
        )
        .unwrap_err();
        let keys: Vec<_> = faults.0.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "defaults.jitter",
                "row.a.status",
                "row.a.text",
                "row.a.reason",
                "row.a.scope",
                "row.a.delays",
                "row.a.class",
                "row.a.final",
                "row.a.colour",
                "row.#2.name"
            ],
            "{faults}"
        );
        assert!(
            Table::with_file("mine.toml", "[[row]\nname")
                .unwrap_err()
                .to_string()
                .starts_with("mine.toml: syntax")
        );
    }
}
