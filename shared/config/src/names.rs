//! What names in the configuration may look like. They get into keys of Redis, headers, URLs, paths
//! and logs, so they have no character that could mean something there.

use std::net::{IpAddr, SocketAddr};

use typed_toml::section::Section;
use typed_toml::set::SECOND;
use url::{Host, Url};

/// The longest name, in characters.
const NAME_MAX: usize = 64;

/// The longest host name (RFC 1035, section 2.3.4), and the longest prefix of keys.
const HOST_MAX: usize = 253;

/// How seldom a periodic task may run: once within this.
const YEAR: u32 = 366 * 86_400;

/// Reads a name; a fault if it is there and is none.
pub(crate) fn read_name<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
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
pub(crate) fn read_prefix<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
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
pub(crate) fn read_plain<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
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
pub(crate) fn read_host<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
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

/// Reads a cron expression. One that fires less than once a year is a mistake, such as 30 February.
pub(crate) fn read_cron<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
    let expression = section.text(key)?;
    match expression.parse::<cron::Schedule>() {
        Err(_) => section.fault(key, why_no_cron(expression)),
        Ok(schedule) => {
            let now = chrono::Utc::now();
            let fires = schedule.after(&now).next().is_some_and(|next| {
                next - now <= chrono::Duration::from_std(SECOND * YEAR).unwrap_or_default()
            });
            if fires {
                return Some(expression);
            }
            section.fault(
                key,
                format!(
                    "{expression:?} does not fire within a year; the task has to run now and then"
                ),
            );
        }
    }
    None
}

/// Why an expression is none. What the parser says of it has lines and carets, and is not shown.
fn why_no_cron(expression: &str) -> String {
    let fields = expression.split_whitespace().count();
    // A year may follow, and `@daily` is one word.
    if matches!(fields, 6 | 7) || expression.trim_start().starts_with('@') {
        return format!(
            "{expression:?} is no cron expression; its fields are second minute hour day month \
             weekday, and a year may follow"
        );
    }
    let noun = if fields == 1 { "field" } else { "fields" };
    format!(
        "{expression:?} has {fields} {noun}; 6 are needed, the first is seconds (second minute \
         hour day month weekday)"
    )
}

/// Reads a URL. Control characters and white space, which a URL loses without a word as it is read,
/// are faults.
pub(crate) fn parse_url(text: &str) -> Option<Url> {
    let is_plain = !text.chars().any(|c| c.is_control() || c.is_whitespace());
    Url::parse(text).ok().filter(|_| is_plain)
}

/// Whether a URL is about this machine, so that nothing it carries leaves it.
pub(crate) fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// An address with its port, which is that of the DNS where none is named.
pub(crate) fn nameserver(text: &str) -> Option<SocketAddr> {
    const DNS_PORT: u16 = 53;
    text.parse().ok().or_else(|| {
        text.parse::<IpAddr>()
            .ok()
            .map(|ip| SocketAddr::new(ip, DNS_PORT))
    })
}
