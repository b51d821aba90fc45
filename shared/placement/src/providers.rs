//! The known providers with their domains and mail hosts: those of `providers.toml`, and on top of
//! them the `[[provider]]` sections of a configuration.

use std::collections::HashMap;
use std::fmt;

use domain::destination::Destination;

/// One mail system that serves many domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its name, which is also that of its destination: lower-case letters, digits and hyphens.
    pub name: String,
    /// Its recipient domains: `example.com`, or `*.example.com` for all domains below it.
    pub domains: Vec<String>,
    /// Its mail hosts, in the same form.
    pub mx: Vec<String>,
}

/// All providers, indexed by domain and by mail host.
#[derive(Clone, Default)]
pub struct Providers {
    list: Vec<Provider>,
    domains: Index,
    hosts: Index,
}

impl Providers {
    pub(crate) fn add(&mut self, providers: Vec<Provider>) {
        if providers.is_empty() {
            return;
        }
        self.list
            .retain(|known| !providers.iter().any(|provider| provider.name == known.name));
        self.list.extend(providers);
        (self.domains, self.hosts) = (Index::default(), Index::default());
        for Provider { name, domains, mx } in &self.list {
            domains
                .iter()
                .for_each(|pattern| self.domains.insert(pattern, name));
            mx.iter()
                .for_each(|pattern| self.hosts.insert(pattern, name));
        }
    }

    /// Returns the providers. A domain or host that two of them claim belongs to the later one.
    pub fn list(&self) -> &[Provider] {
        &self.list
    }

    /// Returns the provider of a recipient domain.
    pub fn of_domain(&self, domain: &str) -> Option<&Destination> {
        self.domains.find(domain)
    }

    /// Returns the provider of a mail host.
    pub fn of_host(&self, host: &str) -> Option<&Destination> {
        self.hosts.find(host)
    }
}

impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.list.iter().map(|provider| &provider.name))
            .finish()
    }
}

/// Names and patterns of names. A lookup takes as many steps as the name has labels.
#[derive(Clone, Default)]
struct Index {
    exact: HashMap<String, Destination>,
    /// The patterns, without their `*.`.
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
        let parents =
            std::iter::successors(name.split_once('.'), |(_, parent)| parent.split_once('.'));
        self.exact.get(name).or_else(|| {
            parents
                .into_iter()
                .find_map(|(_, parent)| self.below.get(parent))
        })
    }
}
