//! Finds a domain's mail hosts, in the order in which they are tried, and the addresses of each
//! host. DNS answers are cached for their time to live.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use domain::outcome::{Fault, FaultKind, Outcome};
use domain::reply::Reply;
use system::dns::{self, DnsError, MailHost};
use tokio::time::timeout;

use super::public::{is_connectable, is_public};
use crate::settings::mx::MxSettings;

/// How many DNS answers are cached.
const CACHED_ANSWERS_MAX: u64 = 10_000;

/// The DNS lookups that delivery needs.
pub(crate) struct Dns {
    dns: dns::Dns,
    timeout: Duration,
    private_hosts: bool,
}

/// Why there is no host to deliver to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LookupError {
    /// The domain declares that it accepts no mail (RFC 7505).
    NullMx,
    /// The domain does not exist.
    NoDomain,
    /// We are the domain's most preferred mail host, so the mail would loop.
    Loop,
    /// Its hosts have no address that mail may be sent to.
    NoAddress,
    /// The lookup failed.
    Failed(Fault),
}

impl Dns {
    /// Returns the DNS client for these settings. It makes no lookup yet, and needs a Tokio
    /// runtime.
    ///
    /// # Errors
    /// If the system's name servers are to be used and cannot be found. The text names the setting
    /// that fixes it.
    pub(crate) fn new(settings: &MxSettings) -> Result<Self, String> {
        let MxSettings {
            nameservers,
            lookup_timeout: timeout,
            private_hosts,
            lookups_max,
            ..
        } = settings;
        let (timeout, private_hosts) = (*timeout, *private_hosts);
        let dns_settings = dns::Settings {
            nameservers,
            timeout,
            kept_max: CACHED_ANSWERS_MAX,
            at_once_max: *lookups_max,
        };
        let dns = dns::Dns::new(dns_settings)
            .map_err(|why| format!("{why}; set nameservers in the route"))?;
        Ok(Self {
            dns,
            timeout,
            private_hosts,
        })
    }

    /// Returns the mail hosts of a domain by preference. Hosts of the same preference are in random
    /// order (RFC 5321, section 5.1). A domain without MX records is its own host. `us` is our own
    /// host name. If it is among the hosts, it is left out, and so are all hosts that are not more
    /// preferred.
    pub(crate) async fn hosts(&self, domain: &str, us: &str) -> Result<Vec<String>, LookupError> {
        if domain.starts_with('[') {
            return Ok(vec![domain.to_owned()]);
        }
        let answer = timeout(self.timeout, self.dns.mail_hosts(domain)).await;
        match answer.map_err(|_| LookupError::Failed(dns::late()))? {
            Ok(records) => in_order(records, domain, us),
            Err(DnsError::NoName) => Err(LookupError::NoDomain),
            Err(DnsError::NoRecords) => Ok(vec![domain.to_owned()]),
            Err(DnsError::Failed(fault)) => Err(failed(domain, fault)),
        }
    }

    /// Returns the addresses of a host that mail may be sent to, IPv6 and IPv4 alternating.
    pub(crate) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let found = match literal(host) {
            Some(address) => vec![address],
            None => self.look_up(host).await?,
        };
        let is_allowed = |address: &IpAddr| {
            if self.private_hosts {
                is_connectable(*address)
            } else {
                is_public(*address)
            }
        };
        let allowed = found.into_iter().filter(is_allowed);
        let (four, six): (Vec<_>, Vec<_>) = allowed.partition(IpAddr::is_ipv4);
        let (mut four, mut six) = (four.into_iter(), six.into_iter());
        let mut addresses = Vec::new();
        loop {
            let both = [six.next(), four.next()];
            if both == [None, None] {
                break;
            }
            addresses.extend(both.into_iter().flatten());
        }
        if addresses.is_empty() {
            Err(LookupError::NoAddress)
        } else {
            Ok(addresses)
        }
    }

    async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let answer = timeout(self.timeout, self.dns.addresses(host)).await;
        match answer.map_err(|_| LookupError::Failed(dns::late()))? {
            Ok(found) => Ok(found),
            Err(DnsError::NoName | DnsError::NoRecords) => Err(LookupError::NoAddress),
            Err(DnsError::Failed(fault)) => Err(failed(host, fault)),
        }
    }
}

impl LookupError {
    /// Returns a lookup failure on our own side.
    pub(crate) fn ours(text: String) -> Self {
        Self::Failed(Fault::ours(FaultKind::Lookup, text))
    }

    /// Returns the attempt's outcome.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            // RFC 7505, section 4.1, with the code of RFC 7504.
            Self::NullMx => Outcome::Refused(Reply::parse(
                "556 5.1.10 the recipient's domain takes no mail",
            )),
            // The address has accepted mail before, or the platform believed so. So the domain may
            // be missing only for a time, for example because its registration has lapsed.
            Self::NoDomain => Outcome::Deferred(Reply::parse(
                "450 4.1.2 the recipient's domain does not exist",
            )),
            Self::Loop => Outcome::Deferred(Reply::parse(
                "450 4.4.6 the recipient's mail host is this system itself",
            )),
            Self::NoAddress => Outcome::Deferred(Reply::parse(
                "450 4.4.4 no mail host of the domain has an address that mail may be sent to",
            )),
            Self::Failed(fault) => Outcome::Unreachable(fault),
        }
    }
}

/// Returns the hosts in the order to try them.
fn in_order(records: Vec<MailHost>, domain: &str, us: &str) -> Result<Vec<String>, LookupError> {
    if records.is_empty() {
        return Ok(vec![domain.to_owned()]);
    }
    let named = records.into_iter().filter(|host| host.name != ".");
    let named: Vec<_> = named
        .map(|host| (host.preference, host.name.to_ascii_lowercase()))
        .collect();
    if named.is_empty() {
        return Err(LookupError::NullMx);
    }
    let mut hosts: Vec<_> = named
        .iter()
        .map(|(preference, host)| (*preference, random(), host.trim_end_matches('.')))
        .collect();
    let ourselves = hosts
        .iter()
        .filter(|(_, _, host)| host.eq_ignore_ascii_case(us))
        .map(|host| host.0)
        .min();
    hosts.retain(|(preference, _, _)| ourselves.is_none_or(|ours| *preference < ours));
    if hosts.is_empty() {
        return Err(LookupError::Loop);
    }
    hosts.sort_unstable();
    let mut seen = BTreeSet::new();
    hosts.retain(|(_, _, host)| seen.insert(*host));
    Ok(hosts
        .into_iter()
        .map(|(_, _, host)| host.to_owned())
        .collect())
}

/// Returns an unpredictable number: the standard library seeds each new hasher state with random
/// keys.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Returns the name that a certificate of this host has to match. It is the address if the host is
/// given as an address literal.
pub(super) fn name(host: &str, address: IpAddr) -> String {
    if literal(host).is_some() {
        address.to_string()
    } else {
        host.to_owned()
    }
}

/// Returns the address in a domain literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321,
/// section 4.1.3).
fn literal(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[')?.strip_suffix(']')?;
    let is_six = inner
        .get(..5)
        .is_some_and(|tag| tag.eq_ignore_ascii_case("ipv6:"));
    inner[if is_six { 5 } else { 0 }..].parse().ok()
}

fn failed(name: &str, mut fault: Fault) -> LookupError {
    fault.text = format!("{name}: {}", fault.text);
    LookupError::Failed(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(records: &[(u16, &str)]) -> Result<Vec<String>, LookupError> {
        let host = |(preference, name): &(u16, &str)| MailHost {
            preference: *preference,
            name: (*name).to_owned(),
        };
        in_order(
            records.iter().map(host).collect(),
            "example.com",
            "us.example.net",
        )
    }

    #[test]
    fn hosts_are_ordered_by_preference_and_a_domain_without_mx_is_its_own_host() {
        assert_eq!(
            order(&[(20, "b."), (10, "a."), (30, "c.")]).unwrap(),
            ["a", "b", "c"]
        );
        assert_eq!(order(&[]).unwrap(), ["example.com"]);
        assert_eq!(order(&[(0, ".")]), Err(LookupError::NullMx));
        assert_eq!(
            order(&[(0, "."), (10, "a.")]).unwrap(),
            ["a"],
            "a null MX among other hosts is ignored"
        );
    }

    #[test]
    fn mail_is_not_sent_to_ourselves_or_to_less_preferred_hosts() {
        assert_eq!(
            order(&[(10, "a."), (20, "us.example.net."), (20, "b."), (30, "c.")]).unwrap(),
            ["a"]
        );
        assert_eq!(order(&[(10, "US.example.net.")]), Err(LookupError::Loop));
    }

    #[test]
    fn hosts_of_the_same_preference_take_turns_as_the_first() {
        let first = |_| order(&[(10, "a."), (10, "b."), (20, "c.")]).unwrap()[0].clone();
        let firsts: BTreeSet<String> = (0..200).map(first).collect();
        assert_eq!(firsts.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn an_address_literal_is_read() {
        assert_eq!(literal("[192.0.2.1]"), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(
            literal("[IPv6:2001:db8::1]"),
            Some("2001:db8::1".parse().unwrap())
        );
        assert_eq!(literal("192.0.2.1"), None);
    }

    #[test]
    fn a_certificate_has_to_match_the_address_if_the_domain_is_a_literal() {
        for (host, address, called) in [
            ("mx1.example.com", "192.0.2.1", "mx1.example.com"),
            ("[192.0.2.1]", "192.0.2.1", "192.0.2.1"),
            ("[IPv6:2001:DB8::1]", "2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(name(host, address.parse().unwrap()), called);
        }
    }
}
