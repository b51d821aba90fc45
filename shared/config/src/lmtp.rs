//! `[intake.lmtp]`: the settings of the LMTP server that receives reports.

use std::net::SocketAddr;
use std::time::Duration;

use domain::account::Account;
use domain::address::Address;
use typed_toml::section::Section;
use typed_toml::set::{DAY, SECOND, set, set_number};

/// `[intake.lmtp]`
#[derive(Clone, Debug, Default)]
pub struct Lmtp {
    /// The address that it listens on. If `None`, it does not listen.
    pub listen: Option<SocketAddr>,
    /// The host name in its greeting.
    pub host: String,
    /// The account of reports whose return path does not name one.
    pub account: Account,
    /// The addresses to which only trusted systems send complaints.
    pub complaints_to: Vec<Address>,
    /// The maximum size of a message, in bytes.
    pub message_max: usize,
    /// How many recipients a message may have.
    pub recipients_max: usize,
    /// How many connections may be open at once.
    pub connections: usize,
    /// How many of these may come from one peer.
    pub connections_per_peer: usize,
    /// How long a client may send nothing.
    pub idle_max: Duration,
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
        if section.has("complaints_to") {
            let mut addresses = Vec::new();
            for text in section.texts("complaints_to") {
                match Address::parse(text) {
                    Ok(address) => addresses.push(address),
                    Err(why) => section.fault("complaints_to", why.to_string()),
                }
            }
            self.complaints_to = addresses;
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
