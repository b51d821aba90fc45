//! The keys of `[scheduler]` that bound its connections.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use typed_toml::section::Section;
use typed_toml::set::{SECOND, set, set_number};

const HOUR: Duration = Duration::from_secs(3_600);

/// What bounds the connections of a scheduler.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    /// Connections at once; 0: as many as the process's file descriptors allow.
    pub max: usize,
    /// Connections of one peer at once; 0: a quarter of all.
    pub per_peer: usize,
    /// The networks of proxies that many clients come through: they have no limit of their own.
    pub trusted_proxies: Vec<IpNet>,
    /// How long a client may take for the head of a request.
    pub header_timeout: Duration,
    /// How long a connection may be idle.
    pub keep_alive: Duration,
}

impl Connections {
    /// What a process may have whose file descriptors are bounded so.
    pub fn max_for(&self, descriptors: u64) -> usize {
        const SHARE: u64 = 2;
        const FEWEST: u64 = 16;
        const MOST: u64 = 10_000;
        if self.max > 0 {
            return self.max;
        }
        usize::try_from((descriptors / SHARE).clamp(FEWEST, MOST)).expect("it is at most MOST")
    }

    /// What a peer may have of so many.
    pub fn per_peer_of(&self, max: usize) -> usize {
        const SHARE: usize = 4;
        if self.per_peer > 0 {
            self.per_peer
        } else {
            (max / SHARE).max(1)
        }
    }

    pub(crate) fn read(&mut self, section: &mut Section<'_, '_>) {
        set_number(&mut self.max, section.number("connections", 0..=1_000_000));
        set_number(
            &mut self.per_peer,
            section.number("connections_per_peer", 0..=1_000_000),
        );
        set(
            &mut self.header_timeout,
            section.duration("header_timeout", SECOND..=HOUR),
        );
        set(
            &mut self.keep_alive,
            section.duration("keep_alive", SECOND..=HOUR),
        );
        let texts = section.texts("trusted_proxies");
        if section.has("trusted_proxies") {
            self.trusted_proxies.clear();
        }
        for text in texts {
            match network(text) {
                Some(network) => self.trusted_proxies.push(network),
                None => section.fault(
                    "trusted_proxies",
                    format!("\"{text}\" is no network like \"10.0.0.0/8\", nor an address like \"192.0.2.1\""),
                ),
            }
        }
    }
}

/// A network, or one address.
fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_configured_comes_from_the_descriptors() {
        for (max, per_peer, descriptors, places) in [
            (0, 0, 1_024, (512, 128)),
            (0, 0, 20, (16, 4)),
            (0, 0, u64::MAX, (10_000, 2_500)),
            (40_000, 0, 1_024, (40_000, 10_000)),
            (3, 0, 1_024, (3, 1)),
            (0, 50, 1_024, (512, 50)),
        ] {
            let settings = Connections {
                max,
                per_peer,
                ..Connections::default()
            };
            let max = settings.max_for(descriptors);
            assert_eq!((max, settings.per_peer_of(max)), places);
        }
    }

    #[test]
    fn a_network_is_one_or_an_address() {
        for (text, is_one) in [
            ("10.0.0.0/8", true),
            ("2001:db8::/32", true),
            ("192.0.2.1", true),
            ("10/8", false),
            ("proxy", false),
        ] {
            assert_eq!(network(text).is_some(), is_one, "{text}");
        }
    }
}
