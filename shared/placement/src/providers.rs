//! The providers that are known by name, with their domains and mail hosts: `providers.toml`, and the `[[provider]]`
//! sections of a configuration over it.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use domain::destination::Destination;
use toml::Table;
use typed_toml::fault::SettingsFault;

use crate::load;

/// The table that ships: reference, documentation and data in one.
pub const DEFAULT: &str = include_str!("providers.toml");

static EMBEDDED: LazyLock<Providers> = LazyLock::new(|| {
    let mut faults = Vec::new();
    let table: Table = toml::from_str(DEFAULT).expect("the tests read the table that ships");
    let mut providers = Providers::default();
    providers.add(load::providers("providers.toml", &table, &mut faults));
    assert!(faults.is_empty(), "the table that ships has faults: {faults:?}");
    providers
});

/// One mail system with many domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its name, and that of its destination: letters, digits and hyphens.
    pub name: String,
    /// What stands behind the `@`: `example.com`, or `*.example.com` for all below it.
    pub domains: Vec<String>,
    /// Its mail hosts, written the same way.
    pub mx: Vec<String>,
}

/// All providers, found by domain and by mail host.
#[derive(Clone, Default)]
pub struct Providers {
    list: Vec<Provider>,
    domains: Index,
    hosts: Index,
}

impl Providers {
    /// Those that ship.
    pub fn embedded() -> Self {
        EMBEDDED.clone()
    }

    /// Takes over the `[[provider]]` sections of one layer of configuration: each replaces the provider of its name, and
    /// has what it claims even where an earlier one claims it too.
    pub fn read(&mut self, file: &str, sections: &[&Table], faults: &mut Vec<SettingsFault>) {
        self.add(load::sections(file, sections, faults));
    }

    fn add(&mut self, providers: Vec<Provider>) {
        if providers.is_empty() {
            return;
        }
        self.list.retain(|known| !providers.iter().any(|provider| provider.name == known.name));
        self.list.extend(providers);
        (self.domains, self.hosts) = (Index::default(), Index::default());
        for Provider { name, domains, mx } in &self.list {
            domains.iter().for_each(|pattern| self.domains.insert(pattern, name));
            mx.iter().for_each(|pattern| self.hosts.insert(pattern, name));
        }
    }

    /// The providers; of two that claim the same, the later one has it.
    pub fn list(&self) -> &[Provider] {
        &self.list
    }

    /// The provider of a recipient domain.
    pub fn of_domain(&self, domain: &str) -> Option<&Destination> {
        self.domains.find(domain)
    }

    /// The provider that a mail host belongs to.
    pub fn of_host(&self, host: &str) -> Option<&Destination> {
        self.hosts.find(host)
    }
}

impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list.iter().map(|provider| &provider.name)).finish()
    }
}

/// Names and patterns of names, found in as many steps as the name has labels.
#[derive(Clone, Default)]
struct Index {
    exact: HashMap<String, Destination>,
    below: HashMap<String, Destination>,
}

impl Index {
    fn insert(&mut self, pattern: &str, provider: &str) {
        let (map, name) = match pattern.strip_prefix("*.") {
            Some(parent) => (&mut self.below, parent),
            None => (&mut self.exact, pattern),
        };
        map.insert(name.to_owned(), Destination::named(provider));
    }

    fn find(&self, name: &str) -> Option<&Destination> {
        let parents = std::iter::successors(name.split_once('.'), |(_, parent)| parent.split_once('.'));
        self.exact.get(name).or_else(|| parents.into_iter().find_map(|(_, parent)| self.below.get(parent)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> (Providers, Vec<String>) {
        let table: Table = toml::from_str(text).unwrap();
        let sections: Vec<&Table> =
            table["provider"].as_array().unwrap().iter().map(|section| section.as_table().unwrap()).collect();
        let (mut providers, mut faults) = (Providers::embedded(), Vec::new());
        providers.read("mine.toml", &sections, &mut faults);
        (providers, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_providers_that_ship_have_the_domains_and_hosts_that_people_expect() {
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
            assert_eq!(providers.of_domain(domain).map(Destination::as_str), provider, "{domain}");
        }
        for (host, provider) in [
            ("aspmx.l.google.com", Some("google")),
            ("smtp.google.com", Some("google")),
            ("hotmail-com.olc.protection.outlook.com", Some("microsoft")),
            ("contoso-com.mail.protection.outlook.com", Some("microsoft365")),
            ("mta5.am0.yahoodns.net", Some("yahoo")),
            ("mxbiz1.qq.com", Some("exmail")),
            ("mx1.qq.com", Some("qq")),
            ("protection.outlook.com", None),
            ("mx.example.net", None),
        ] {
            assert_eq!(providers.of_host(host).map(Destination::as_str), provider, "{host}");
        }
    }

    #[test]
    fn no_provider_can_be_mistaken_for_a_domain_and_none_claims_what_another_has() {
        for provider in Providers::embedded().list() {
            assert!(!provider.name.contains('.'), "{}", provider.name);
        }
        // What two sections of one file claim is a fault, which the table that ships would not be read with.
        let claims: usize = Providers::embedded().list().iter().map(|provider| provider.domains.len()).sum();
        let index = Providers::embedded().domains;
        assert_eq!(claims, index.exact.len() + index.below.len());
    }

    #[test]
    fn a_section_adds_a_provider_replaces_one_by_name_and_wins_what_it_claims() {
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
            assert_eq!(providers.of_domain(domain).map(Destination::as_str), provider, "{domain}");
        }
        assert_eq!(providers.of_host("aspmx.l.google.com"), None);
    }

    #[test]
    fn a_longer_pattern_goes_before_a_shorter_and_an_exact_name_before_both() {
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
        for (domain, provider) in [("x.example", "wide"), ("b.sub.example", "narrow"), ("a.sub.example", "exact")] {
            assert_eq!(providers.of_domain(domain).map(Destination::as_str), Some(provider), "{domain}");
        }
    }

    #[test]
    fn every_fault_is_named_at_once() {
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
        let keys: Vec<_> = faults.iter().map(|fault| fault.split(": ").nth(1).unwrap()).collect();
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
