//! The addresses of our own that connections come from. Those of a kind, IPv4 or IPv6, take turns
//! among themselves: an attempt that tries both kinds of a host's addresses uses up no turn of the
//! other kind.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A route's sources, and whose turn it is.
#[derive(Debug)]
pub(super) struct Sources {
    four: Kind,
    six: Kind,
}

/// The sources of one kind.
#[derive(Debug)]
struct Kind {
    /// Empty where there are sources and none of this kind.
    addresses: Vec<Option<IpAddr>>,
    turn: AtomicUsize,
}

/// What one attempt connects from. Each kind is drawn once, by the first address that needs it.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    sources: &'a Sources,
    four: Option<Option<Option<IpAddr>>>,
    six: Option<Option<Option<IpAddr>>>,
}

impl Sources {
    /// These; without any the system chooses.
    pub(super) fn new(sources: &[IpAddr]) -> Self {
        let kind = |is_four| {
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
            Kind {
                addresses,
                turn: AtomicUsize::new(0),
            }
        };
        Self {
            four: kind(true),
            six: kind(false),
        }
    }

    /// The next attempt's.
    pub(super) fn turn(&self) -> Turn<'_> {
        Turn {
            sources: self,
            four: None,
            six: None,
        }
    }
}

impl Kind {
    fn draw(&self) -> Option<Option<IpAddr>> {
        let turn = self
            .turn
            .fetch_add(1, Ordering::Relaxed)
            .checked_rem(self.addresses.len())?;
        self.addresses.get(turn).copied()
    }
}

impl Turn<'_> {
    /// The address of our own to reach this one from: `Some(None)` where the system chooses, `None`
    /// where we have none of its kind. The same for all addresses of a kind.
    pub(super) fn source(&mut self, address: IpAddr) -> Option<Option<IpAddr>> {
        let Self { sources, four, six } = self;
        if address.is_ipv4() {
            *four.get_or_insert_with(|| sources.four.draw())
        } else {
            *six.get_or_insert_with(|| sources.six.draw())
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

    /// What an attempt that tries these addresses in turn comes from.
    fn drawn(sources: &Sources, hosts: &[&str]) -> Vec<String> {
        let mut turn = sources.turn();
        let drawn = hosts.iter().map(|host| turn.source(host.parse().unwrap()));
        drawn
            .map(|source| {
                source.map_or("none".to_owned(), |own| {
                    own.map_or("any".to_owned(), |own| own.to_string())
                })
            })
            .collect()
    }

    #[test]
    fn every_source_has_its_turn_whichever_kinds_of_addresses_hosts_have() {
        let all = ["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"];
        for hosts in [
            &HOSTS[..],
            &[HOSTS[0], HOSTS[1], HOSTS[0], HOSTS[1]],
            &[HOSTS[1], HOSTS[0]],
        ] {
            let sources = sources(&all);
            let mut used: Vec<String> = (0..4).flat_map(|_| drawn(&sources, hosts)).collect();
            used.sort();
            used.dedup();
            assert_eq!(used.len(), all.len(), "{hosts:?}: {used:?}");
        }
    }

    #[test]
    fn an_attempt_comes_from_one_source_of_a_kind_and_the_next_from_another() {
        let sources = sources(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        let fours = ["198.51.100.9", "198.51.100.8", "2001:db8::9"];
        assert_eq!(
            drawn(&sources, &fours),
            ["192.0.2.1", "192.0.2.1", "2001:db8::1"]
        );
        assert_eq!(
            drawn(&sources, &fours),
            ["192.0.2.2", "192.0.2.2", "2001:db8::1"]
        );
        assert_eq!(drawn(&sources, &fours[..1]), ["192.0.2.1"]);
    }

    #[test]
    fn without_sources_the_system_chooses_and_without_one_of_a_kind_there_is_none() {
        assert_eq!(drawn(&sources(&[]), &HOSTS), ["any", "any"]);
        assert_eq!(
            drawn(&sources(&["192.0.2.1"]), &HOSTS),
            ["none", "192.0.2.1"]
        );
    }
}
