//! Proposes a destination for a domain, with the reason: its provider, its mail hosts, or its own
//! name. It is a proposal because the store may already have a placement for the domain.

use std::collections::BTreeSet;

use domain::destination::Destination;
use xxhash_rust::xxh3::xxh3_64;

use crate::providers::Providers;

/// The longest name of a site (a set of mail hosts), in bytes. The name is part of Redis keys.
const SITE_MAX: usize = 160;

/// The answer of the DNS about a domain's mail hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailHosts {
    /// The DNS was not queried.
    NotAsked,
    /// The query failed or was not answered. A later query may succeed.
    Unanswered,
    /// The most preferred mail hosts. Empty if the domain has none: it does not exist, has no MX
    /// record, or declares that it accepts no mail (RFC 7505).
    Answered(BTreeSet<String>),
}

/// Why a domain belongs to its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The domain is in the list of a provider.
    Provider,
    /// Its mail hosts belong to a provider.
    ProviderHosts,
    /// Its mail hosts belong to no provider. All domains with the same hosts are one site.
    Site,
    /// It belongs to no provider and no site.
    OwnName,
    /// The DNS did not answer, so it is unknown whether the domain belongs to a provider or a site.
    Unanswered,
}

/// The proposed destination of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The recipient domain, as in its addresses.
    pub domain: String,
    /// The destination.
    pub destination: Destination,
    /// The reason for it.
    pub reason: Reason,
}

impl MailHosts {
    /// Returns the hosts of the MX records with the lowest preference number (RFC 5321, section
    /// 5.1), in lower case and without the root's dot.
    pub fn from_records(records: impl IntoIterator<Item = (u16, String)>) -> Self {
        let mut best = u16::MAX;
        let mut hosts = BTreeSet::new();
        for (preference, host) in records {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            // The DNS can contain any byte. A name that is not a host name cannot accept mail, and
            // must not get into keys and reports.
            let is_usable = host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && !host.is_empty();
            if !is_usable || preference > best {
                continue;
            }
            if preference < best {
                (best, hosts) = (preference, BTreeSet::new());
            }
            hosts.insert(host);
        }
        Self::Answered(hosts)
    }
}

impl Reason {
    /// Returns the words used in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::ProviderHosts => "provider, by its mail hosts",
            Self::Site => "mail hosts",
            Self::OwnName => "own name",
            Self::Unanswered => "own name: the DNS did not answer",
        }
    }
}

impl Proposal {
    /// Proposes a destination for a domain. A provider of the domain has priority over its mail
    /// hosts.
    pub fn new(providers: &Providers, domain: &str, hosts: &MailHosts) -> Self {
        let own = || Destination::own_name(domain);
        let (destination, reason) = match (providers.of_domain(domain), hosts) {
            (Some(provider), _) => (provider.clone(), Reason::Provider),
            (None, MailHosts::Unanswered) => (own(), Reason::Unanswered),
            (None, MailHosts::Answered(hosts)) if !hosts.is_empty() => {
                match shared_provider(providers, hosts) {
                    Some(provider) => (provider, Reason::ProviderHosts),
                    None => (site(hosts), Reason::Site),
                }
            }
            (None, _) => (own(), Reason::OwnName),
        };
        Self {
            domain: domain.to_owned(),
            destination,
            reason,
        }
    }
}

/// Returns the provider that all hosts belong to, if there is one.
fn shared_provider(providers: &Providers, hosts: &BTreeSet<String>) -> Option<Destination> {
    let mut owners = hosts.iter().map(|host| providers.of_host(host));
    let first = owners.next()??;
    owners
        .all(|owner| owner == Some(first))
        .then(|| first.clone())
}

/// Returns the destination for a set of mail hosts. Its name lists all hosts. If that is too long,
/// it consists of the first host and a hash of the whole list.
fn site(hosts: &BTreeSet<String>) -> Destination {
    let first = hosts.first().map(String::as_str).unwrap_or_default();
    if hosts.len() == 1 && first.len() <= SITE_MAX {
        return Destination::own_name(first);
    }
    let all = hosts
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("+");
    if all.len() <= SITE_MAX {
        return Destination::named(all);
    }
    let hash = xxh3_64(all.as_bytes());
    // Host names are ASCII, so this cut cannot split a character.
    Destination::named(format!(
        "{}+{hash:016x}.",
        &first[..first.len().min(SITE_MAX - 18)]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(records: &[(u16, &str)]) -> MailHosts {
        MailHosts::from_records(
            records
                .iter()
                .map(|(preference, host)| (*preference, (*host).to_owned())),
        )
    }

    #[test]
    fn a_domain_is_placed_by_provider_then_by_mail_hosts_then_by_its_own_name() {
        let providers = Providers::embedded();
        let google = [(1, "aspmx.l.google.com."), (5, "alt1.aspmx.l.google.com.")];
        for (domain, hosts, destination, reason) in [
            ("gmail.com", MailHosts::NotAsked, "google", Reason::Provider),
            (
                "gmail.com",
                MailHosts::Unanswered,
                "google",
                Reason::Provider,
            ),
            (
                "gmail.com",
                hosts(&[(1, "mx.example.net")]),
                "google",
                Reason::Provider,
            ),
            (
                "acme.example",
                hosts(&google),
                "google",
                Reason::ProviderHosts,
            ),
            (
                "acme.example",
                hosts(&[(0, "ACME.mail.protection.Outlook.com.")]),
                "microsoft365",
                Reason::ProviderHosts,
            ),
            (
                "acme.example",
                hosts(&[(1, "smtp.google.com"), (1, "mx.acme.example")]),
                "mx.acme.example+smtp.google.com",
                Reason::Site,
            ),
            (
                "acme.example",
                hosts(&[(1, "smtp.google.com"), (1, "mx1.qq.com")]),
                "mx1.qq.com+smtp.google.com",
                Reason::Site,
            ),
            (
                "acme.example",
                hosts(&[
                    (10, "MX2.example.net."),
                    (10, "mx1.example.net"),
                    (20, "backup.example"),
                ]),
                "mx1.example.net+mx2.example.net",
                Reason::Site,
            ),
            (
                "acme.example",
                hosts(&[(20, "backup.example"), (10, "mx1.example.net.")]),
                "mx1.example.net",
                Reason::Site,
            ),
            (
                "acme.example",
                hosts(&[(10, "mx"), (20, "mx.example")]),
                "mx.",
                Reason::Site,
            ),
            (
                "acme.example",
                hosts(&[(10, "mx\n{1}.example"), (20, "mx.example")]),
                "mx.example",
                Reason::Site,
            ),
            (
                "acme.example",
                hosts(&[(0, ".")]),
                "acme.example",
                Reason::OwnName,
            ),
            ("acme.example", hosts(&[]), "acme.example", Reason::OwnName),
            (
                "acme.example",
                MailHosts::NotAsked,
                "acme.example",
                Reason::OwnName,
            ),
            (
                "acme.example",
                MailHosts::Unanswered,
                "acme.example",
                Reason::Unanswered,
            ),
            ("google", MailHosts::NotAsked, "google.", Reason::OwnName),
        ] {
            let proposal = Proposal::new(&providers, domain, &hosts);
            assert_eq!(
                (proposal.destination.as_str(), proposal.reason),
                (destination, reason),
                "{domain} {hosts:?}"
            );
        }
    }

    #[test]
    fn the_name_of_a_site_is_bounded_and_distinguishes_sites() {
        let many = |last: u32| {
            hosts(
                &(0..last)
                    .map(|n| format!("mx{n}.a-rather-long-name.example.net"))
                    .map(|h| (1, h))
                    .collect::<Vec<_>>()
                    .iter()
                    .map(|(p, h)| (*p, h.as_str()))
                    .collect::<Vec<_>>(),
            )
        };
        let long = "a".repeat(60);
        let longest = format!("{long}.{long}.{long}.{long}.net");
        let name = |hosts: &MailHosts| {
            Proposal::new(&Providers::embedded(), "acme.example", hosts).destination
        };
        for hosts in [
            many(4),
            many(5),
            many(50),
            hosts(&[(1, &longest)]),
            hosts(&[(1, &longest), (1, "b.example")]),
        ] {
            let name = name(&hosts);
            assert!(name.as_str().len() <= SITE_MAX, "{name}");
            assert!(name.as_str().contains('.'), "{name} could be a provider's");
        }
        assert_ne!(name(&many(49)), name(&many(50)));
        assert_eq!(name(&many(50)), name(&many(50)));
    }
}
