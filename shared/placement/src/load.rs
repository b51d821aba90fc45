//! Reads `[[provider]]` sections. Reports every fault, not only the first.

use std::collections::HashMap;
use std::sync::LazyLock;

use domain::address::Address;
use toml::{Table, Value};
use typed_toml::fault::SettingsFault;
use typed_toml::section::Section;

use crate::providers::{Provider, Providers};

/// The table that ships with the program: reference, documentation and data in one.
pub const DEFAULT: &str = include_str!("providers.toml");

static EMBEDDED: LazyLock<Providers> = LazyLock::new(|| {
    let mut faults = Vec::new();
    let table: Table = toml::from_str(DEFAULT).expect("the tests read the embedded table");
    let mut providers = Providers::default();
    providers.add(read_file("providers.toml", &table, &mut faults));
    assert!(
        faults.is_empty(),
        "the embedded table of providers has faults: {faults:?}"
    );
    providers
});

impl Providers {
    /// Returns the providers that ship with the program.
    pub fn embedded() -> Self {
        EMBEDDED.clone()
    }

    /// Adds the `[[provider]]` sections of one layer of configuration. Each section replaces the
    /// provider of the same name, and takes the domains and hosts that it claims from earlier
    /// providers.
    pub fn read(&mut self, file: &str, sections: &[&Table], faults: &mut Vec<SettingsFault>) {
        self.add(read_sections(file, sections, faults));
    }
}

/// Reads a file that contains only `[[provider]]` sections.
fn read_file(file: &str, table: &Table, faults: &mut Vec<SettingsFault>) -> Vec<Provider> {
    let mut top = Section::new(file, "", table, faults);
    let tables = top.tables("provider");
    top.finish();
    read_sections(file, &tables, faults)
}

/// Reads the sections of one file. Two of them must not have the same name, or claim the same
/// domain or host.
fn read_sections(file: &str, tables: &[&Table], faults: &mut Vec<SettingsFault>) -> Vec<Provider> {
    let mut providers: Vec<Provider> = Vec::new();
    let mut claimed: HashMap<(&str, String), String> = HashMap::new();
    for (n, table) in tables.iter().enumerate() {
        let label = table
            .get("name")
            .and_then(Value::as_str)
            .map_or(format!("#{}", n + 1), str::to_owned);
        let mut section = Section::new(file, format!("provider.{label}"), table, faults);
        let Some(provider) = provider(&mut section) else {
            continue;
        };
        if providers.iter().any(|other| other.name == provider.name) {
            section.fault("name", "another provider of this file has this name");
        }
        for (key, patterns) in [("domains", &provider.domains), ("mx", &provider.mx)] {
            for pattern in patterns {
                let other = claimed.insert((key, pattern.clone()), provider.name.clone());
                if let Some(other) = other.filter(|other| *other != provider.name) {
                    section.fault(
                        key,
                        format!(
                            "\"{pattern}\" is claimed by provider {other} too; leave it to one"
                        ),
                    );
                }
            }
        }
        section.finish();
        providers.push(provider);
    }
    providers
}

/// Reads one section. Returns `None`, after reporting it, if the section has no valid name.
fn provider(section: &mut Section<'_, '_>) -> Option<Provider> {
    let name = section.text("name").map(str::to_owned);
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let name = name.filter(|name| !name.is_empty() && name.bytes().all(allowed));
    if name.is_none() {
        let why = "every provider needs a name of lower-case letters, digits and hyphens; it has \
                   no dot, because domains have one";
        section.fault("name", why);
    }
    let domains = patterns(section, "domains");
    let mx = patterns(section, "mx");
    if !section.has("domains") && !section.has("mx") {
        let why = "a provider needs domains or mx, such as \"example.com\" or \"*.example.com\"; \
                   an empty list switches it off";
        section.fault("domains", why);
    }
    Some(Provider {
        name: name?,
        domains,
        mx,
    })
}

fn patterns(section: &mut Section<'_, '_>, key: &'static str) -> Vec<String> {
    let mut patterns = Vec::new();
    for text in section.texts(key) {
        match pattern(text) {
            Some(pattern) => patterns.push(pattern),
            None => {
                let why = format!(
                    "\"{text}\" is not a name; write \"example.com\", or \"*.example.com\" for all \
                     below it"
                );
                section.fault(key, why);
            }
        }
    }
    patterns
}

/// Returns the name in the form that addresses have, so that both can be compared byte by byte.
fn pattern(text: &str) -> Option<String> {
    let (star, name) = text
        .strip_prefix("*.")
        .map_or(("", text), |name| ("*.", name));
    let canonical = Address::parse(&format!("postmaster@{name}")).ok()?;
    // The address parser accepts angle brackets and several @, but a name must not contain them.
    let plain = !name.contains(['@', '>', '[', ' ']);
    plain.then(|| format!("{star}{}", canonical.domain()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::destination::Destination;

    fn with(text: &str) -> (Providers, Vec<String>) {
        let table: Table = toml::from_str(text).unwrap();
        let sections: Vec<&Table> = table["provider"]
            .as_array()
            .unwrap()
            .iter()
            .map(|section| section.as_table().unwrap())
            .collect();
        let (mut providers, mut faults) = (Providers::embedded(), Vec::new());
        providers.read("mine.toml", &sections, &mut faults);
        (providers, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_embedded_providers_have_the_expected_domains_and_hosts() {
        let providers = Providers::embedded();
        for (domain, provider) in [
            ("gmail.com", Some("google")),
            ("hotmail.co.uk", Some("microsoft")),
            ("contoso.onmicrosoft.com", Some("microsoft365")),
            ("onmicrosoft.com", None),
            ("ymail.com", Some("yahoo")),
            ("verizon.net", Some("yahoo")),
            ("yahoo.co.jp", Some("yahoo-japan")),
            ("me.com", Some("apple")),
            ("gmx.at", Some("gmx")),
            ("web.de", Some("web-de")),
            ("126.com", Some("netease")),
            ("nyc.rr.com", Some("charter")),
            ("rr.com", Some("charter")),
            ("example.com", None),
            ("notgmail.com", None),
            ("gmail.com.example", None),
            ("google", None),
        ] {
            assert_eq!(
                providers.of_domain(domain).map(Destination::as_str),
                provider,
                "{domain}"
            );
        }
        for (host, provider) in [
            ("aspmx.l.google.com", Some("google")),
            ("smtp.google.com", Some("google")),
            ("hotmail-com.olc.protection.outlook.com", Some("microsoft")),
            (
                "contoso-com.mail.protection.outlook.com",
                Some("microsoft365"),
            ),
            ("mta5.am0.yahoodns.net", Some("yahoo")),
            ("mxbiz1.qq.com", Some("exmail")),
            ("mx1.qq.com", Some("qq")),
            ("protection.outlook.com", None),
            ("mx.example.net", None),
        ] {
            assert_eq!(
                providers.of_host(host).map(Destination::as_str),
                provider,
                "{host}"
            );
        }
    }

    #[test]
    fn no_provider_looks_like_a_domain_or_claims_a_domain_of_another() {
        for provider in Providers::embedded().list() {
            assert!(!provider.name.contains('.'), "{}", provider.name);
        }
        // Two sections of one file with the same claim are a fault, and the embedded table must
        // load without faults.
        let providers = Providers::embedded();
        for provider in providers.list() {
            for pattern in &provider.domains {
                let domain = pattern.replacen("*.", "any.", 1);
                let found = providers.of_domain(&domain).map(Destination::as_str);
                assert_eq!(found, Some(provider.name.as_str()), "{pattern}");
            }
        }
    }

    #[test]
    fn a_section_adds_a_provider_or_replaces_one_by_name_and_takes_over_what_it_claims() {
        let (providers, faults) = with(
            r#"
            [[provider]]
            name = "google"
            domains = ["gmail.com"]
            [[provider]]
            name = "acme"
            domains = ["Mail.ACME.example.", "*.acme.example", "aol.com", "bücher.example"]
            mx = ["*.acme.example", "*.deep.acme.example"]
            [[provider]]
            name = "apple"
            domains = []
            "#,
        );
        assert_eq!(faults, [""; 0]);
        for (domain, provider) in [
            ("gmail.com", Some("google")),
            ("googlemail.com", None),
            ("mail.acme.example", Some("acme")),
            ("a.b.acme.example", Some("acme")),
            ("acme.example", None),
            ("aol.com", Some("acme")),
            ("xn--bcher-kva.example", Some("acme")),
            ("icloud.com", None),
        ] {
            assert_eq!(
                providers.of_domain(domain).map(Destination::as_str),
                provider,
                "{domain}"
            );
        }
        assert_eq!(providers.of_host("aspmx.l.google.com"), None);
    }

    #[test]
    fn a_longer_pattern_has_priority_over_a_shorter_one_and_an_exact_name_over_both() {
        let (providers, faults) = with(
            r#"
            [[provider]]
            name = "wide"
            domains = ["*.example"]
            [[provider]]
            name = "narrow"
            domains = ["*.sub.example"]
            [[provider]]
            name = "exact"
            domains = ["a.sub.example"]
            "#,
        );
        assert_eq!(faults, [""; 0]);
        for (domain, provider) in [
            ("x.example", "wide"),
            ("b.sub.example", "narrow"),
            ("a.sub.example", "exact"),
        ] {
            assert_eq!(
                providers.of_domain(domain).map(Destination::as_str),
                Some(provider),
                "{domain}"
            );
        }
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let (_, faults) = with(
            r#"
            [[provider]]
            name = "acme.example"
            domains = ["acme.example"]
            [[provider]]
            domains = ["b.example"]
            [[provider]]
            name = "two"
            domains = ["*", "a b.example", "c.example", 3]
            mx = ["*.*.example"]
            colour = "red"
            [[provider]]
            name = "nothing"
            [[provider]]
            name = "three"
            domains = ["d.example", "e.example", "e.example"]
            [[provider]]
            name = "four"
            domains = ["d.example"]
            [[provider]]
            name = "three"
            mx = ["mx.example"]
            "#,
        );
        let keys: Vec<_> = faults
            .iter()
            .map(|fault| fault.split(": ").nth(1).unwrap())
            .collect();
        assert_eq!(
            keys,
            [
                "provider.acme.example.name",
                "provider.#2.name",
                "provider.two.domains",
                "provider.two.mx",
                "provider.two.colour",
                "provider.nothing.domains",
                "provider.four.domains",
                "provider.three.name",
            ],
            "{faults:#?}"
        );
        assert!(faults[0].contains("no dot"), "{}", faults[0]);
        assert!(faults[6].contains("three"), "{}", faults[6]);
    }
}
