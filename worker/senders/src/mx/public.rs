//! Decides which IP addresses mail may be sent to. The owner of a domain must not be able to direct
//! our connections into our own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address belongs to the public Internet (IANA's special-purpose registries, RFC 6890).
/// An IPv6 address that represents an IPv4 address is judged by the IPv4 address.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => is_public_v4(four),
        IpAddr::V6(six) => match embedded_v4(six) {
            Some(four) => is_public_v4(four),
            None => is_public_v6(six),
        },
    }
}

/// Whether this can be the address of a host that we can connect to. A link-local address is not:
/// it does not tell on which of our networks the host is.
pub(crate) fn is_connectable(address: IpAddr) -> bool {
    let is_link_local = matches!(address, IpAddr::V6(six) if six.is_unicast_link_local());
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_multicast() || is_broadcast || is_link_local)
}

fn is_public_v4(four: Ipv4Addr) -> bool {
    let [a, b, c, _] = four.octets();
    let special = four.is_private()
        || four.is_loopback()
        || four.is_link_local()
        || four.is_multicast()
        || four.is_documentation()
        || a == 0
        || a >= 240
        // Shared address space (RFC 6598), protocol assignments (RFC 6890) and benchmarks (RFC
        // 2544).
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && b & 0xfe == 18);
    !special
}

fn is_public_v6(six: Ipv6Addr) -> bool {
    let [a, b, ..] = six.segments();
    // Only 2000::/3 is global unicast. Within it, 2001:db8::/32 and 3fff::/20 are for
    // documentation, and 2001::/23 is for protocols.
    let is_documentation = (a == 0x2001 && b == 0x0db8) || (a == 0x3fff && b < 0x1000);
    a & 0xe000 == 0x2000 && !is_documentation && !(a == 0x2001 && b < 0x0200)
}

/// Returns the IPv4 address inside a mapped (RFC 4291), translated (RFC 6052) or 6to4 (RFC 3056)
/// address.
fn embedded_v4(six: Ipv6Addr) -> Option<Ipv4Addr> {
    let bytes = six.octets();
    let at = |n: usize| Ipv4Addr::new(bytes[n], bytes[n + 1], bytes[n + 2], bytes[n + 3]);
    match six.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(at(12)),
        [0x2002, ..] => Some(at(2)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_a_host_can_have_are_connected_to() {
        for (text, may_be) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("::1", true),
            ("fd00::1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("224.0.0.1", false),
            ("ff02::1", false),
            ("255.255.255.255", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_connectable(text.parse().unwrap()), may_be, "{text}");
        }
    }

    #[test]
    fn only_addresses_routed_on_the_internet_are_public() {
        for (text, public) in [
            ("8.8.8.8", true),
            ("100.63.255.255", true),
            ("100.64.0.1", false),
            ("127.0.0.1", false),
            ("127.9.9.9", false),
            ("10.1.2.3", false),
            ("172.31.0.1", false),
            ("172.32.0.1", true),
            ("192.168.1.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("192.0.2.1", false),
            ("198.19.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("ff02::1", false),
            ("2001:db8::1", false),
            ("2a00:1450::1", true),
            ("::ffff:127.0.0.1", false),
            ("::ffff:8.8.8.8", true),
            ("64:ff9b::10.0.0.1", false),
            ("2002:7f00:1::1", false),
        ] {
            assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        }
    }
}
