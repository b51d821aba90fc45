//! The settings of a route whose sender is `mx`, which delivers directly to the recipients' mail
//! hosts.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use typed_toml::hosts::HostRule;
use typed_toml::names::nameserver;
use typed_toml::section::Section;
use typed_toml::set::{SECOND, set, set_number};

use crate::settings::session::{SessionSettings, TlsMode, read_session};

/// How many connections to one host are open at most. It is the default of `pace.window`, so that
/// attempts at a destination with one host do not wait for each other.
const CONNECTIONS: usize = 20;

/// The settings of a route whose sender is `mx`.
#[derive(Clone, Debug)]
pub struct MxSettings {
    /// The port of mail hosts. Values other than 25 are for tests.
    pub port: u16,
    /// Whether connections are encrypted: [`TlsMode::None`], [`TlsMode::Opportunistic`] or
    /// [`TlsMode::Required`].
    pub tls: TlsMode,
    /// Recipient domains for which TLS is required, even if `tls` does not require it.
    pub tls_required: Vec<HostRule>,
    /// The local addresses that connections use in turn. If empty, the system chooses.
    pub sources: Vec<IpAddr>,
    /// How many addresses one attempt tries at most.
    pub hosts_max: usize,
    /// How many lookups run at once at most.
    pub lookups_max: usize,
    /// Whether mail may be sent to hosts with private, loopback or other non-public addresses.
    pub private_hosts: bool,
    /// The DNS servers to use. If empty, those of the system are used.
    pub nameservers: Vec<SocketAddr>,
    /// How long one lookup may take.
    pub lookup_timeout: Duration,
    /// The settings of each SMTP session.
    pub session: SessionSettings,
}

impl Default for MxSettings {
    fn default() -> Self {
        Self {
            port: 25,
            tls: TlsMode::Opportunistic,
            tls_required: Vec::new(),
            sources: Vec::new(),
            hosts_max: 5,
            lookups_max: 256,
            private_hosts: false,
            nameservers: Vec::new(),
            lookup_timeout: Duration::from_secs(10),
            session: SessionSettings {
                connections: CONNECTIONS,
                ..SessionSettings::default()
            },
        }
    }
}

pub(super) fn read_mx(section: &mut Section<'_, '_>) -> MxSettings {
    let mut mx = MxSettings::default();
    let modes = [
        ("none", TlsMode::None),
        ("opportunistic", TlsMode::Opportunistic),
        ("required", TlsMode::Required),
    ];
    set(&mut mx.tls, section.choice("tls", &modes));
    mx.tls_required = HostRule::read_all(section, "tls_required");
    for text in section.texts("sources") {
        match text.parse() {
            Ok(address) => mx.sources.push(address),
            Err(_) => section.fault("sources", format!("\"{text}\" is not an IP address")),
        }
    }
    for text in section.texts("nameservers") {
        match nameserver(text) {
            Some(address) => mx.nameservers.push(address),
            None => {
                section.fault(
                    "nameservers",
                    format!("\"{text}\" is not an address like \"192.0.2.53\""),
                );
            }
        }
    }
    set_number(&mut mx.port, section.number("port", 1..=65_535));
    set_number(&mut mx.hosts_max, section.number("hosts_max", 1..=100));
    set(&mut mx.private_hosts, section.switch("private_hosts"));
    set_number(
        &mut mx.lookups_max,
        section.number("lookups_max", 1..=10_000),
    );
    set(
        &mut mx.lookup_timeout,
        section.duration("lookup_timeout", SECOND / 10..=60 * SECOND),
    );
    read_session(&mut mx.session, section);
    mx
}
