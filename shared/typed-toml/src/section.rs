//! Reads the values of TOML tables as types: numbers, durations, sizes, lists. Reading continues
//! after a fault, so that all faults of a file are reported at once.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::{Table, Value};

use crate::fault::SettingsFault;

/// Reads one table and collects its faults. At the end, each key that was not read is a fault too.
pub struct Section<'a, 'f> {
    file: &'a str,
    path: String,
    table: &'a Table,
    read_keys: BTreeSet<&'static str>,
    faults: &'f mut Vec<SettingsFault>,
}

impl<'a, 'f> Section<'a, 'f> {
    /// Starts to read `table`, which is at `path` in `file`.
    pub fn new(
        file: &'a str,
        path: impl Into<String>,
        table: &'a Table,
        faults: &'f mut Vec<SettingsFault>,
    ) -> Self {
        Self {
            file,
            path: path.into(),
            table,
            read_keys: BTreeSet::new(),
            faults,
        }
    }

    /// Records a fault of `key`, described by `text`.
    pub fn fault(&mut self, key: &str, text: impl Into<String>) {
        self.faults.push(SettingsFault {
            file: self.file.to_owned(),
            key: self.path_of(key),
            text: text.into(),
        });
    }

    /// Returns the path of a key of this table, from the top of the file.
    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Whether `key` exists, even if its value is empty. From now on it is an allowed key.
    pub fn has(&mut self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// Returns the value of `key`, if the key exists. From now on it is an allowed key.
    fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.read_keys.insert(key);
        self.table.get(key)
    }

    /// Reads the table at `key`, if it exists. `read` gets it as a section of its own. Each of its
    /// keys that `read` did not read is a fault.
    pub fn within<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'a, '_>) -> T,
    ) -> Option<T> {
        let table = self.table(key)?;
        let path = self.path_of(key);
        let mut section = Section::new(self.file, path, table, self.faults);
        let value = read(&mut section);
        section.finish();
        Some(value)
    }

    /// Reads text, if the key exists.
    pub fn text(&mut self, key: &'static str) -> Option<&'a str> {
        let value = self.value(key)?;
        let text = value.as_str();
        if text.is_none() {
            // The value is not shown: it may be a secret.
            let kind = value.type_str();
            self.fault(
                key,
                format!(
                    "it is of type {kind}, not text; text needs quotes, also in the environment: \
                     KEY='\"…\"'"
                ),
            );
        }
        text
    }

    /// Reads text, or a list of texts. A missing key is an empty list.
    pub fn texts(&mut self, key: &'static str) -> Vec<&'a str> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let list = match value {
            Value::String(text) => Some(vec![text.as_str()]),
            Value::Array(items) => items.iter().map(Value::as_str).collect(),
            _ => None,
        };
        list.unwrap_or_else(|| {
            self.fault(
                key,
                format!(
                    "it is of type {}, neither text nor a list of texts",
                    value.type_str()
                ),
            );
            Vec::new()
        })
    }

    /// Reads true or false, if the key exists.
    pub fn switch(&mut self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let switch = value.as_bool();
        if switch.is_none() {
            self.fault(key, format!("{value} is neither true nor false"));
        }
        switch
    }

    /// Reads a whole number within `allowed`, if the key exists.
    pub fn number(&mut self, key: &'static str, allowed: RangeInclusive<u64>) -> Option<u64> {
        let value = self.value(key)?;
        let number = value
            .as_integer()
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| allowed.contains(n));
        if number.is_none() {
            self.fault(
                key,
                format!(
                    "{value} is not a whole number from {} to {}",
                    allowed.start(),
                    allowed.end()
                ),
            );
        }
        number
    }

    /// Reads a number within `allowed`, if the key exists. It need not be whole.
    pub fn fraction(&mut self, key: &'static str, allowed: RangeInclusive<f64>) -> Option<f64> {
        let value = self.value(key)?;
        let number = value
            .as_float()
            .or_else(|| value.as_integer().map(|n| n as f64));
        let number = number.filter(|n| allowed.contains(n));
        if number.is_none() {
            self.fault(
                key,
                format!(
                    "{value} is not a number from {} to {}",
                    allowed.start(),
                    allowed.end()
                ),
            );
        }
        number
    }

    /// Reads a duration within `allowed`, if the key exists.
    pub fn duration(
        &mut self,
        key: &'static str,
        allowed: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let text = self.text(key)?;
        match parse_duration(text, &allowed) {
            Ok(duration) => Some(duration),
            Err(why) => {
                self.fault(key, why);
                None
            }
        }
    }

    /// Reads a list of durations, each within `allowed`. A missing key is an empty list.
    pub fn durations(
        &mut self,
        key: &'static str,
        allowed: &RangeInclusive<Duration>,
    ) -> Vec<Duration> {
        let mut durations = Vec::new();
        for text in self.texts(key) {
            match parse_duration(text, allowed) {
                Ok(duration) => durations.push(duration),
                Err(why) => self.fault(key, why),
            }
        }
        durations
    }

    /// Reads a size such as `"64KiB"` within `allowed`, if the key exists. Returns bytes.
    pub fn size(&mut self, key: &'static str, allowed: RangeInclusive<usize>) -> Option<usize> {
        let text = self.text(key)?;
        let size = parse_size(text).filter(|size| allowed.contains(size));
        if size.is_none() {
            let (least, most) = (format_size(*allowed.start()), format_size(*allowed.end()));
            self.fault(
                key,
                format!(
                    "\"{text}\" is not a size from {least} to {most}; \
                     write it like \"64KiB\" or \"16MiB\""
                ),
            );
        }
        size
    }

    /// Reads one of the allowed values, if the key exists.
    pub fn choice<T: Copy>(&mut self, key: &'static str, allowed: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let choice = allowed
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, value)| *value);
        if choice.is_none() {
            let names: Vec<_> = allowed.iter().map(|(name, _)| *name).collect();
            self.fault(
                key,
                format!("\"{text}\" is not one of {}", names.join(", ")),
            );
        }
        choice
    }

    /// Returns the table at `key`, if it exists.
    pub fn table(&mut self, key: &'static str) -> Option<&'a Table> {
        let value = self.value(key)?;
        let table = value.as_table();
        if table.is_none() {
            self.fault(key, format!("{value} is not a section; write [{key}]"));
        }
        table
    }

    /// Returns the list of tables (`[[key]]`) at `key`. A missing key is an empty list.
    pub fn tables(&mut self, key: &'static str) -> Vec<&'a Table> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let tables = value
            .as_array()
            .and_then(|items| items.iter().map(Value::as_table).collect());
        tables.unwrap_or_else(|| {
            self.fault(
                key,
                format!("it is not a list of sections; write [[{key}]]"),
            );
            Vec::new()
        })
    }

    /// Ends the reading: each key that was not read is a fault.
    pub fn finish(mut self) {
        let unknown: Vec<_> = self
            .table
            .keys()
            .filter(|key| !self.read_keys.contains(key.as_str()))
            .cloned()
            .collect();
        let known = self
            .read_keys
            .iter()
            .copied()
            .collect::<Vec<_>>()
            .join(", ");
        for key in unknown {
            self.fault(&key, format!("there is no such key; allowed here: {known}"));
        }
    }
}

fn parse_duration(text: &str, allowed: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let example = "write it like \"90s\", \"24h\" or \"7d\"";
    let duration = humantime::parse_duration(text)
        .map_err(|_| format!("\"{text}\" is not a span of time; {example}"))?;
    if allowed.contains(&duration) {
        return Ok(duration);
    }
    let [least, most] =
        [allowed.start(), allowed.end()].map(|bound| humantime::format_duration(*bound));
    Err(format!(
        "\"{text}\" is out of bounds; allowed is {least} to {most}"
    ))
}

fn parse_size(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.trim_end().parse::<usize>().ok()?.checked_mul(unit)
}

/// Formats a size in the largest unit in which it is a whole number.
fn format_size(bytes: usize) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units
        .iter()
        .find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    unit.map_or_else(
        || format!("{bytes}B"),
        |(name, unit)| format!("{}{name}", bytes / unit),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_names_its_file_its_key_and_the_allowed_values() {
        let table: Table = toml::from_str(
            r#"
            lease = "soon"
            batch = 0
            size = "64 kilos"
            mode = "fast"
            on = "yes"
            spare = 1
            "#,
        )
        .unwrap();
        let mut faults = Vec::new();
        let mut section = Section::new("redeliver.toml", "worker", &table, &mut faults);
        section.duration("lease", Duration::ZERO..=Duration::from_secs(60));
        section.number("batch", 1..=500);
        section.size("size", 1..=1 << 30);
        section.choice("mode", &[("safe", 1), ("quick", 2)]);
        section.switch("on");
        section.finish();
        assert_eq!(
            faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "redeliver.toml: worker.lease: \"soon\" is not a span of time; \
                 write it like \"90s\", \"24h\" or \"7d\"",
                "redeliver.toml: worker.batch: 0 is not a whole number from 1 to 500",
                "redeliver.toml: worker.size: \"64 kilos\" is not a size from 1B to 1GiB; \
                 write it like \"64KiB\" or \"16MiB\"",
                "redeliver.toml: worker.mode: \"fast\" is not one of safe, quick",
                "redeliver.toml: worker.on: \"yes\" is neither true nor false",
                "redeliver.toml: worker.spare: there is no such key; \
                 allowed here: batch, lease, mode, on, size",
            ]
        );
    }

    #[test]
    fn a_key_that_was_only_looked_for_is_an_allowed_key() {
        let table: Table = toml::from_str("nmaes = [\"one\"]").unwrap();
        let mut faults = Vec::new();
        let mut section = Section::new("f", "", &table, &mut faults);
        assert!(!section.has("names"));
        section.finish();
        assert_eq!(faults[0].text, "there is no such key; allowed here: names");
    }

    #[test]
    fn values_within_bounds_are_read() {
        let table: Table = toml::from_str(
            "lease = \"1m\"\nsize = \"2 MiB\"\nnames = \"one\"\nspans = [\"1h\", \"7d\"]",
        )
        .unwrap();
        let mut faults = Vec::new();
        let mut section = Section::new("f", "", &table, &mut faults);
        let year = Duration::from_secs(366 * 86_400);
        assert_eq!(
            section.duration("lease", Duration::ZERO..=year),
            Some(Duration::from_secs(60))
        );
        assert_eq!(section.size("size", 1..=usize::MAX), Some(2 << 20));
        assert_eq!(section.texts("names"), ["one"]);
        assert_eq!(
            section.durations("spans", &(Duration::ZERO..=year)),
            [Duration::from_secs(3_600), Duration::from_secs(604_800)]
        );
        section.finish();
        assert_eq!(faults, []);
    }
}
