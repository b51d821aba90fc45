//! What names in the configuration may look like. They get into keys of Redis, headers, URLs, paths
//! and logs, so they have no character that could mean something there.

use std::net::{IpAddr, SocketAddr};

use url::{Host, Url};

use crate::section::Section;

/// The longest name, in characters.
const NAME_MAX: usize = 64;

/// The longest host name (RFC 1035, section 2.3.4), and the longest prefix of keys.
const HOST_MAX: usize = 253;

/// Reads a name; a fault if it is there and is none.
pub fn read_name<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
    let name = section.text(key)?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(is_allowed) {
        return Some(name);
    }
    section.fault(
        key,
        format!("{name:?} is no name: a name has 1 to {NAME_MAX} characters of A-Z a-z 0-9 . _ -"),
    );
    None
}

/// Reads what keys of Redis start with.
pub fn read_prefix<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
    let prefix = section.text(key)?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if (1..=HOST_MAX).contains(&prefix.len()) && prefix.bytes().all(is_allowed) {
        return Some(prefix);
    }
    section.fault(
        key,
        format!(
            "{prefix:?} is no prefix: it has 1 to {HOST_MAX} characters of A-Z a-z 0-9 . _ : -"
        ),
    );
    None
}

/// Reads text that may hold anything but control characters.
pub fn read_plain<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
    let text = section.text(key)?;
    if !text.is_empty() && !text.chars().any(char::is_control) {
        return Some(text);
    }
    section.fault(
        key,
        format!("{text:?} must be text without control characters such as CR and LF"),
    );
    None
}

/// Reads the name or address of a host to connect to.
pub fn read_host<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
    let host = section.text(key)?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_name = (1..=HOST_MAX).contains(&host.len()) && host.bytes().all(is_allowed);
    if is_name || host.parse::<IpAddr>().is_ok() {
        return Some(host);
    }
    section.fault(
        key,
        format!("{host:?} is no host: write a name like \"relay.example.com\" or an IP address"),
    );
    None
}

/// Reads a URL. Control characters and white space, which a URL loses without a word as it is read,
/// are faults.
pub fn parse_url(text: &str) -> Option<Url> {
    let is_plain = !text.chars().any(|c| c.is_control() || c.is_whitespace());
    Url::parse(text).ok().filter(|_| is_plain)
}

/// Whether a URL is about this machine, so that nothing it carries leaves it.
pub fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// An address with its port, which is that of the DNS where none is named.
pub fn nameserver(text: &str) -> Option<SocketAddr> {
    const DNS_PORT: u16 = 53;
    text.parse().ok().or_else(|| {
        text.parse::<IpAddr>()
            .ok()
            .map(|ip| SocketAddr::new(ip, DNS_PORT))
    })
}
