//! The keys of `[scheduler]` that limit its connections.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use typed_toml::section::Section;
use typed_toml::set::{SECOND, set, set_number};

const HOUR: Duration = Duration::from_secs(3_600);

/// The limits on a scheduler's connections.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    /// How many connections may be open at once. If 0, the limit follows from the number of file
    /// descriptors that the process may have.
    pub connections: usize,
    /// How many connections one peer may have at once. If 0, a quarter of `connections`.
    pub connections_per_peer: usize,
    /// The networks of proxies that many clients come through. The limit per peer does not apply to
    /// them.
    pub trusted_proxies: Vec<IpNet>,
    /// How long a client may take for the head of a request.
    pub header_timeout: Duration,
    /// How long a connection may be idle.
    pub keep_alive: Duration,
}

impl Connections {
    /// Returns how many connections a process with this many file descriptors may have.
    pub fn max_for(&self, descriptors: u64) -> usize {
        const SHARE: u64 = 2;
        const FEWEST: u64 = 16;
        const MOST: u64 = 10_000;
        if self.connections > 0 {
            return self.connections;
        }
        usize::try_from((descriptors / SHARE).clamp(FEWEST, MOST))
            .expect("the value is at most MOST")
    }

    /// Returns how many of `max` connections one peer may have.
    pub fn per_peer_of(&self, max: usize) -> usize {
        const SHARE: usize = 4;
        if self.connections_per_peer > 0 {
            self.connections_per_peer
        } else {
            (max / SHARE).max(1)
        }
    }

    pub(crate) fn read(&mut self, section: &mut Section<'_, '_>) {
        set_number(
            &mut self.connections,
            section.number("connections", 0..=1_000_000),
        );
        set_number(
            &mut self.connections_per_peer,
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
                    format!(
                        "\"{text}\" is neither a network like \"10.0.0.0/8\" nor an address like \
                         \"192.0.2.1\""
                    ),
                ),
            }
        }
    }
}

/// Reads a network. A single address counts as a network of one.
fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_are_not_configured_depend_on_the_file_descriptors() {
        for (max, per_peer, descriptors, places) in [
            (0, 0, 1_024, (512, 128)),
            (0, 0, 20, (16, 4)),
            (0, 0, u64::MAX, (10_000, 2_500)),
            (40_000, 0, 1_024, (40_000, 10_000)),
            (3, 0, 1_024, (3, 1)),
            (0, 50, 1_024, (512, 50)),
        ] {
            let settings = Connections {
                connections: max,
                connections_per_peer: per_peer,
                ..Connections::default()
            };
            let max = settings.max_for(descriptors);
            assert_eq!((max, settings.per_peer_of(max)), places);
        }
    }

    #[test]
    fn a_network_and_a_single_address_are_read() {
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
