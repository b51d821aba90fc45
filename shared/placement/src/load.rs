//! Reads `[[provider]]` sections. Every fault is found, not just the first.

use std::collections::HashMap;

use domain::address::Address;
use toml::{Table, Value};
use typed_toml::fault::SettingsFault;
use typed_toml::section::Section;

use crate::providers::Provider;

/// Reads a file that holds nothing but `[[provider]]` sections.
pub(super) fn providers(file: &str, table: &Table, faults: &mut Vec<SettingsFault>) -> Vec<Provider> {
    let mut top = Section::new(file, "", table, faults);
    let tables = top.tables("provider");
    top.finish();
    sections(file, &tables, faults)
}

/// Reads the sections of one file. Two of them must neither share a name nor claim the same.
pub(super) fn sections(file: &str, tables: &[&Table], faults: &mut Vec<SettingsFault>) -> Vec<Provider> {
    let mut providers: Vec<Provider> = Vec::new();
    let mut claimed: HashMap<(&str, String), String> = HashMap::new();
    for (n, table) in tables.iter().enumerate() {
        let label = table.get("name").and_then(Value::as_str).map_or(format!("#{}", n + 1), str::to_owned);
        let mut section = Section::new(file, format!("provider.{label}"), table, faults);
        let Some(provider) = provider(&mut section) else { continue };
        if providers.iter().any(|other| other.name == provider.name) {
            section.fault("name", "another provider of this file has this name");
        }
        for (key, patterns) in [("domains", &provider.domains), ("mx", &provider.mx)] {
            for pattern in patterns {
                let other = claimed.insert((key, pattern.clone()), provider.name.clone());
                if let Some(other) = other.filter(|other| *other != provider.name) {
                    section.fault(key, format!("\"{pattern}\" is claimed by provider {other} too; leave it to one"));
                }
            }
        }
        section.finish();
        providers.push(provider);
    }
    providers
}

/// Reads one section; `None` where it has no usable name, which is then noted.
fn provider(section: &mut Section<'_, '_>) -> Option<Provider> {
    let name = section.text("name").map(str::to_owned);
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let name = name.filter(|name| !name.is_empty() && name.bytes().all(allowed));
    if name.is_none() {
        let why = "every provider needs a name of lower-case letters, digits and hyphens; no dot, for domains have one";
        section.fault("name", why);
    }
    let domains = patterns(section, "domains");
    let mx = patterns(section, "mx");
    if !section.has("domains") && !section.has("mx") {
        let why =
            "a provider needs domains or mx, \"example.com\" or \"*.example.com\" say; an empty list switches it off";
        section.fault("domains", why);
    }
    Some(Provider { name: name?, domains, mx })
}

fn patterns(section: &mut Section<'_, '_>, key: &'static str) -> Vec<String> {
    let mut patterns = Vec::new();
    for text in section.texts(key) {
        match pattern(text) {
            Some(pattern) => patterns.push(pattern),
            None => section.fault(
                key,
                format!("\"{text}\" is no name; write \"example.com\", or \"*.example.com\" for all below it"),
            ),
        }
    }
    patterns
}

/// The name as addresses have it, so that the two are compared byte by byte.
fn pattern(text: &str) -> Option<String> {
    let (star, name) = text.strip_prefix("*.").map_or(("", text), |name| ("*.", name));
    let canonical = Address::parse(&format!("postmaster@{name}")).ok()?;
    // An address ends behind its last @ and may be written in angle brackets: neither is part of a name.
    let plain = !name.contains(['@', '>', '[', ' ']);
    plain.then(|| format!("{star}{}", canonical.domain()))
}
