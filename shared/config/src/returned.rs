//! `[verp]` and `[intake.lmtp]`: what is needed for mail that comes back.

use std::net::SocketAddr;
use std::time::Duration;

use domain::account::Account;
use domain::address::Address;
use signing::return_path::Verp;
use typed_toml::secret::Secret;
use typed_toml::section::Section;
use typed_toml::set::{SECOND, set, set_number};

/// The shortest key: HMAC-SHA256 wants no less than half of its output (RFC 2104, section 3).
const KEY_MIN: usize = 16;

const DAY: Duration = Duration::from_secs(86_400);

/// `[verp]`
#[derive(Clone, Debug, Default)]
pub struct Returned {
    /// The domain that return paths are at; none: they are not signed.
    pub domain: Option<String>,
    /// The key that signs them.
    key: Secret,
    /// For how long a return path is believed.
    pub valid_for: Duration,
    /// Whether only reports to a signed return path start anything.
    pub required: bool,
}

/// `[intake.lmtp]`
#[derive(Clone, Debug, Default)]
pub struct Lmtp {
    /// Where it listens; none: it does not.
    pub listen: Option<SocketAddr>,
    /// What it calls itself.
    pub host: String,
    /// The account of reports whose return path does not say.
    pub account: Account,
    /// Bytes of a message.
    pub message_max: usize,
    /// Recipients of a message.
    pub recipients_max: usize,
    /// Connections at once.
    pub connections: usize,
    /// Of these, connections of one peer.
    pub connections_per_peer: usize,
    /// How long a client may stand still.
    pub idle_max: Duration,
}

impl Returned {
    /// What makes and checks return paths, where it is configured.
    pub fn verp(&self) -> Option<Verp> {
        Some(Verp::new(
            self.domain.as_deref()?,
            self.key.reveal(),
            self.valid_for,
        ))
    }

    pub(crate) fn read(&mut self, section: &mut Section<'_, '_>) {
        if let Some(domain) = section.text("domain") {
            match Address::parse(&format!("x@{domain}")) {
                Ok(address) => self.domain = Some(address.domain().to_owned()),
                Err(_) => section.fault(
                    "domain",
                    format!("\"{domain}\" is no domain like \"bounce.example.org\""),
                ),
            }
        }
        match Secret::read(section, ["key", "key_file"]) {
            Some((name, key)) if key.reveal().len() < KEY_MIN => {
                section.fault(
                    name,
                    format!(
                        "is shorter than {KEY_MIN} octets; make one with: openssl rand -hex 32"
                    ),
                );
            }
            Some((_, key)) => self.key = key,
            None => {}
        }
        set(
            &mut self.valid_for,
            section.duration("valid_for", DAY..=3_660 * DAY),
        );
        set(&mut self.required, section.switch("required"));
    }

    /// What is wrong with the section as a whole.
    pub(crate) fn fault(&self) -> Option<(&'static str, &'static str)> {
        let fault = match (&self.domain, self.key.is_empty()) {
            (Some(_), true) => (
                "verp.key_file",
                "a domain needs a key that signs its return paths: key_file or key",
            ),
            (None, false) => (
                "verp.domain",
                "a key needs the domain that return paths are at",
            ),
            (None, true) if self.required => (
                "verp.required",
                "return paths cannot be signed without domain and key",
            ),
            _ => return None,
        };
        Some(fault)
    }
}

impl Lmtp {
    pub(crate) fn read(&mut self, section: &mut Section<'_, '_>) {
        if let Some(text) = section.text("listen") {
            match text.parse() {
                Ok(address) => self.listen = Some(address),
                Err(_) => section.fault(
                    "listen",
                    format!("\"{text}\" is not an address like \"127.0.0.1:8026\""),
                ),
            }
        }
        if let Some(host) = section.text("host") {
            if host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic()) {
                section.fault("host", "must be a host name");
            }
            self.host = host.to_owned();
        }
        if let Some(name) = section.text("account") {
            match Account::parse(name) {
                Ok(account) => self.account = account,
                Err(why) => section.fault("account", why.to_string()),
            }
        }
        set(
            &mut self.message_max,
            section.size("message_max", 1 << 10..=1 << 30),
        );
        set_number(
            &mut self.recipients_max,
            section.number("recipients_max", 1..=10_000),
        );
        set_number(
            &mut self.connections,
            section.number("connections", 1..=10_000),
        );
        set_number(
            &mut self.connections_per_peer,
            section.number("connections_per_peer", 1..=10_000),
        );
        set(
            &mut self.idle_max,
            section.duration("idle_max", SECOND..=DAY),
        );
    }
}
