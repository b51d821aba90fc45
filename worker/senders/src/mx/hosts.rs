//! Where a domain's mail goes: its mail hosts in the order to try them, and their addresses.
//! Answers are kept as long as the DNS says that they hold.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use domain::outcome::{Fault, FaultKind, Outcome};
use domain::reply::Reply;
use system::dns::{self, DnsError, MailHost};
use tokio::time::timeout;

use super::public::{is_of_a_host, is_public};
use crate::settings::mx::MxSettings;

/// Answers that are kept.
const KEPT_MAX: u64 = 10_000;

/// The DNS, as far as it says where mail goes.
pub(crate) struct Dns {
    dns: dns::Dns,
    timeout: Duration,
    private_hosts: bool,
}

/// Why there is no host to go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The domain says that it takes no mail (RFC 7505).
    NullMx,
    /// The domain is not there.
    NoDomain,
    /// The domain's mail comes to us, so that it would go round in circles.
    Loop,
    /// Its hosts have no address that mail may go to.
    NoAddress,
    /// The domain's name servers did not say.
    Failed(Fault),
}

impl Dns {
    /// The DNS by these settings. Asks nothing yet; needs a Tokio runtime.
    ///
    /// # Errors
    /// Where the system's servers are to be asked and are not known; the text says what to set.
    pub(crate) fn new(settings: &MxSettings) -> Result<Self, String> {
        let MxSettings {
            nameservers,
            lookup_timeout: timeout,
            private_hosts,
            lookups_max,
            ..
        } = settings;
        let (timeout, private_hosts) = (*timeout, *private_hosts);
        let asked = dns::Settings {
            nameservers,
            timeout,
            kept_max: KEPT_MAX,
            at_once_max: *lookups_max,
        };
        let dns = dns::Dns::new(asked)
            .map_err(|why| format!("{why}; name some in the route's nameservers"))?;
        Ok(Self {
            dns,
            timeout,
            private_hosts,
        })
    }

    /// The mail hosts of a domain: by preference, and those of the same preference in no order (RFC
    /// 5321, section 5.1). A domain without MX records is its own host. `us`: the name that we go
    /// by; hosts from ourselves on are left out.
    pub(crate) async fn hosts(&self, domain: &str, us: &str) -> Result<Vec<String>, Lookup> {
        if domain.starts_with('[') {
            return Ok(vec![domain.to_owned()]);
        }
        let answer = timeout(self.timeout, self.dns.mail_hosts(domain)).await;
        match answer.map_err(|_| Lookup::Failed(dns::late()))? {
            Ok(records) => in_order(records, domain, us),
            Err(DnsError::NoName) => Err(Lookup::NoDomain),
            Err(DnsError::NoRecords) => Ok(vec![domain.to_owned()]),
            Err(DnsError::Failed(fault)) => Err(failed(domain, fault)),
        }
    }

    /// The addresses of a host that mail may go to, both kinds in turn.
    pub(crate) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Lookup> {
        let found = match literal(host) {
            Some(address) => vec![address],
            None => self.look_up(host).await?,
        };
        let may_be_a_host = |address: &IpAddr| {
            if self.private_hosts {
                is_of_a_host(*address)
            } else {
                is_public(*address)
            }
        };
        let allowed = found.into_iter().filter(may_be_a_host);
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
            Err(Lookup::NoAddress)
        } else {
            Ok(addresses)
        }
    }

    async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, Lookup> {
        let answer = timeout(self.timeout, self.dns.addresses(host)).await;
        match answer.map_err(|_| Lookup::Failed(dns::late()))? {
            Ok(found) => Ok(found),
            Err(DnsError::NoName | DnsError::NoRecords) => Err(Lookup::NoAddress),
            Err(DnsError::Failed(fault)) => Err(failed(host, fault)),
        }
    }
}

impl Lookup {
    /// Trouble of our own.
    pub(crate) fn ours(text: String) -> Self {
        Self::Failed(Fault::ours(FaultKind::Lookup, text))
    }

    /// What it comes to for the attempt.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            // RFC 7505, section 4.1, and the code of RFC 7504.
            Self::NullMx => Outcome::Refused(Reply::parse(
                "556 5.1.10 the recipient's domain takes no mail",
            )),
            // The address took mail once, or was worth it to the platform: a domain that is not
            // there may have lapsed.
            Self::NoDomain => Outcome::Deferred(Reply::parse(
                "450 4.1.2 the recipient's domain does not exist",
            )),
            Self::Loop => Outcome::Deferred(Reply::parse(
                "450 4.4.6 the recipient's mail hosts are ourselves",
            )),
            Self::NoAddress => Outcome::Deferred(Reply::parse(
                "450 4.4.4 no mail host of the domain has an address to send to",
            )),
            Self::Failed(fault) => Outcome::Unreachable(fault),
        }
    }
}

/// The hosts in the order to try them.
fn in_order(records: Vec<MailHost>, domain: &str, us: &str) -> Result<Vec<String>, Lookup> {
    if records.is_empty() {
        return Ok(vec![domain.to_owned()]);
    }
    let named = records.into_iter().filter(|host| host.name != ".");
    let named: Vec<_> = named
        .map(|host| (host.preference, host.name.to_ascii_lowercase()))
        .collect();
    if named.is_empty() {
        return Err(Lookup::NullMx);
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
        return Err(Lookup::Loop);
    }
    hosts.sort_unstable();
    let mut seen = BTreeSet::new();
    hosts.retain(|(_, _, host)| seen.insert(*host));
    Ok(hosts
        .into_iter()
        .map(|(_, _, host)| host.to_owned())
        .collect())
}

/// A number that nobody foresees: each new state of the standard library's hasher has keys of its
/// own.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// What a host at this address is called, as a certificate has it: one that is written as an
/// address has no other name.
pub(super) fn name(host: &str, address: IpAddr) -> String {
    if literal(host).is_some() {
        address.to_string()
    } else {
        host.to_owned()
    }
}

/// The address in a domain literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321, section
/// 4.1.3).
fn literal(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[')?.strip_suffix(']')?;
    let is_six = inner
        .get(..5)
        .is_some_and(|tag| tag.eq_ignore_ascii_case("ipv6:"));
    inner[if is_six { 5 } else { 0 }..].parse().ok()
}

fn failed(name: &str, mut fault: Fault) -> Lookup {
    fault.text = format!("{name}: {}", fault.text);
    Lookup::Failed(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(records: &[(u16, &str)]) -> Result<Vec<String>, Lookup> {
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
    fn hosts_come_by_preference_and_a_domain_without_any_is_its_own() {
        assert_eq!(
            order(&[(20, "b."), (10, "a."), (30, "c.")]).unwrap(),
            ["a", "b", "c"]
        );
        assert_eq!(order(&[]).unwrap(), ["example.com"]);
        assert_eq!(order(&[(0, ".")]), Err(Lookup::NullMx));
        assert_eq!(
            order(&[(0, "."), (10, "a.")]).unwrap(),
            ["a"],
            "a null MX among others is none"
        );
    }

    #[test]
    fn mail_does_not_go_in_circles() {
        assert_eq!(
            order(&[(10, "a."), (20, "us.example.net."), (20, "b."), (30, "c.")]).unwrap(),
            ["a"]
        );
        assert_eq!(order(&[(10, "US.example.net.")]), Err(Lookup::Loop));
    }

    #[test]
    fn hosts_of_the_same_preference_share_the_first_place() {
        let first = |_| order(&[(10, "a."), (10, "b."), (20, "c.")]).unwrap()[0].clone();
        let firsts: BTreeSet<String> = (0..200).map(first).collect();
        assert_eq!(firsts.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn an_address_in_brackets_is_where_mail_goes() {
        assert_eq!(literal("[192.0.2.1]"), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(
            literal("[IPv6:2001:db8::1]"),
            Some("2001:db8::1".parse().unwrap())
        );
        assert_eq!(literal("192.0.2.1"), None);
    }

    #[test]
    fn a_certificate_holds_for_the_address_where_the_domain_is_one() {
        for (host, address, called) in [
            ("mx1.example.com", "192.0.2.1", "mx1.example.com"),
            ("[192.0.2.1]", "192.0.2.1", "192.0.2.1"),
            ("[IPv6:2001:DB8::1]", "2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(name(host, address.parse().unwrap()), called);
        }
    }
}
