//! The allowed forms of names, hosts and URLs in the configuration. Names become parts of Redis
//! keys, headers, URLs, paths and logs, so they must not contain characters that have a special
//! meaning there.

use std::net::{IpAddr, SocketAddr};

use url::{Host, Url};

use crate::section::Section;

/// The longest name, in bytes. All allowed characters have one byte.
const NAME_MAX: usize = 64;

/// The longest host name, in bytes. RFC 1035, section 2.3.4, allows 255 octets in the form that DNS
/// sends. Two of them are not in the text.
const HOST_MAX: usize = 253;

/// The longest prefix of Redis keys, in bytes.
const PREFIX_MAX: usize = 253;

/// Reads a name, if the key exists. An invalid name is a fault.
pub fn read_name<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
    let name = section.text(key)?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(is_allowed) {
        return Some(name);
    }
    section.fault(
        key,
        format!(
            "{name:?} is not a name: a name has 1 to {NAME_MAX} characters of A-Z a-z 0-9 . _ -"
        ),
    );
    None
}

/// Reads the prefix of Redis keys, if the key exists. An invalid prefix is a fault.
pub fn read_prefix<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
    let prefix = section.text(key)?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if (1..=PREFIX_MAX).contains(&prefix.len()) && prefix.bytes().all(is_allowed) {
        return Some(prefix);
    }
    section.fault(
        key,
        format!(
            "{prefix:?} is not a prefix: a prefix has 1 to {PREFIX_MAX} characters of \
             A-Z a-z 0-9 . _ : -"
        ),
    );
    None
}

/// Reads text, if the key exists. Text that is empty or has control characters is a fault.
pub fn read_plain<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
    let text = section.text(key)?;
    if !text.is_empty() && !text.chars().any(char::is_control) {
        return Some(text);
    }
    section.fault(
        key,
        format!("{text:?} is empty or has control characters such as CR and LF"),
    );
    None
}

/// Reads the name or IP address of a host to connect to, if the key exists. Anything else is a
/// fault.
pub fn read_host<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
    let host = section.text(key)?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_name = (1..=HOST_MAX).contains(&host.len()) && host.bytes().all(is_allowed);
    if is_name || host.parse::<IpAddr>().is_ok() {
        return Some(host);
    }
    section.fault(
        key,
        format!("{host:?} is not a host: write a name like \"relay.example.com\" or an IP address"),
    );
    None
}

/// Parses a URL. Returns `None` if the text is not a URL. Also returns `None` if the text contains
/// control characters or white space, which the parser would remove or encode without an error.
pub fn parse_url(text: &str) -> Option<Url> {
    let is_plain = !text.chars().any(|c| c.is_control() || c.is_whitespace());
    Url::parse(text).ok().filter(|_| is_plain)
}

/// Whether the host of a URL is this machine, so that requests to it never leave the machine.
pub fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Parses the address of a name server: an IP address, with or without a port. Without a port it is
/// 53, the port of DNS.
pub fn nameserver(text: &str) -> Option<SocketAddr> {
    const DNS_PORT: u16 = 53;
    text.parse().ok().or_else(|| {
        text.parse::<IpAddr>()
            .ok()
            .map(|ip| SocketAddr::new(ip, DNS_PORT))
    })
}
