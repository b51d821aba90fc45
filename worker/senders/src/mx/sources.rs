//! The local addresses that connections use. The addresses of each family (IPv4, IPv6) are used in
//! turn. One attempt uses one local address per family, however many hosts it tries.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A route's local addresses, and which is used next.
#[derive(Debug)]
pub(super) struct Sources {
    four: Family,
    six: Family,
}

/// The sources of one address family.
#[derive(Debug)]
struct Family {
    /// Empty if sources are configured but none of this family. A single `None` if none are
    /// configured at all.
    addresses: Vec<Option<IpAddr>>,
    turn: AtomicUsize,
}

/// The sources of one attempt. The source of each family is chosen once, for the first address that
/// needs it.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    sources: &'a Sources,
    four: Option<Option<Option<IpAddr>>>,
    six: Option<Option<Option<IpAddr>>>,
}

impl Sources {
    /// Returns these sources. If the list is empty, the system chooses the local address.
    pub(super) fn new(sources: &[IpAddr]) -> Self {
        let family = |is_four| {
            let same = sources
                .iter()
                .filter(|source| source.is_ipv4() == is_four)
                .copied()
                .map(Some);
            let addresses = if sources.is_empty() {
                vec![None]
            } else {
                same.collect()
            };
            Family {
                addresses,
                turn: AtomicUsize::new(0),
            }
        };
        Self {
            four: family(true),
            six: family(false),
        }
    }

    /// Returns the sources for the next attempt.
    pub(super) fn turn(&self) -> Turn<'_> {
        Turn {
            sources: self,
            four: None,
            six: None,
        }
    }
}

impl Family {
    fn next(&self) -> Option<Option<IpAddr>> {
        let turn = self
            .turn
            .fetch_add(1, Ordering::Relaxed)
            .checked_rem(self.addresses.len())?;
        self.addresses.get(turn).copied()
    }
}

impl Turn<'_> {
    /// Returns the local address from which to connect to `address`. It is `Some(None)` if the
    /// system chooses, and `None` if no source has the family of `address`. All addresses of a
    /// family get the same result.
    pub(super) fn source(&mut self, address: IpAddr) -> Option<Option<IpAddr>> {
        let Self { sources, four, six } = self;
        if address.is_ipv4() {
            *four.get_or_insert_with(|| sources.four.next())
        } else {
            *six.get_or_insert_with(|| sources.six.next())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 2] = ["2001:db8::9", "198.51.100.9"];

    fn sources(texts: &[&str]) -> Sources {
        Sources::new(
            &texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<_>>(),
        )
    }

    /// Returns the sources that an attempt uses if it tries these hosts in this order.
    fn used_sources(sources: &Sources, hosts: &[&str]) -> Vec<String> {
        let mut turn = sources.turn();
        let used = hosts.iter().map(|host| turn.source(host.parse().unwrap()));
        used.map(|source| {
            source.map_or("none".to_owned(), |own| {
                own.map_or("any".to_owned(), |own| own.to_string())
            })
        })
        .collect()
    }

    #[test]
    fn every_source_has_its_turn_for_hosts_with_any_mix_of_address_families() {
        let all = ["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"];
        for hosts in [
            &HOSTS[..],
            &[HOSTS[0], HOSTS[1], HOSTS[0], HOSTS[1]],
            &[HOSTS[1], HOSTS[0]],
        ] {
            let sources = sources(&all);
            let mut used: Vec<String> =
                (0..4).flat_map(|_| used_sources(&sources, hosts)).collect();
            used.sort();
            used.dedup();
            assert_eq!(used.len(), all.len(), "{hosts:?}: {used:?}");
        }
    }

    #[test]
    fn an_attempt_uses_one_source_per_family_and_the_next_attempt_another() {
        let sources = sources(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        let fours = ["198.51.100.9", "198.51.100.8", "2001:db8::9"];
        assert_eq!(
            used_sources(&sources, &fours),
            ["192.0.2.1", "192.0.2.1", "2001:db8::1"]
        );
        assert_eq!(
            used_sources(&sources, &fours),
            ["192.0.2.2", "192.0.2.2", "2001:db8::1"]
        );
        assert_eq!(used_sources(&sources, &fours[..1]), ["192.0.2.1"]);
    }

    #[test]
    fn without_sources_the_system_chooses_and_a_family_without_sources_is_not_used() {
        assert_eq!(used_sources(&sources(&[]), &HOSTS), ["any", "any"]);
        assert_eq!(
            used_sources(&sources(&["192.0.2.1"]), &HOSTS),
            ["none", "192.0.2.1"]
        );
    }
}
