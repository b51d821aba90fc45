//! The settings of a route whose sender is `smtp`, which hands mail to a relay.

use std::fmt;

use typed_toml::names::{read_host, read_plain};
use typed_toml::secret::{read_file, without_line_end};
use typed_toml::section::Section;
use typed_toml::set::{set, set_number};

use crate::settings::session::{SessionSettings, TlsMode, read_session};

/// The settings of a route whose sender is `smtp`.
#[derive(Clone, Debug)]
pub struct SmtpSettings {
    /// The relay's host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub tls: TlsMode,
    /// The login, if the relay requires one.
    pub login: Option<SmtpLogin>,
    /// The settings of each SMTP session.
    pub session: SessionSettings,
}

/// The login at a relay.
#[derive(Clone, PartialEq, Eq)]
pub struct SmtpLogin {
    /// The user.
    pub username: String,
    /// The password. `Debug` does not print it.
    pub password: String,
}

impl SmtpSettings {
    /// Returns the default settings of a relay: opportunistic TLS, no login.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            tls: TlsMode::Opportunistic,
            login: None,
            session: SessionSettings::default(),
        }
    }
}

impl fmt::Debug for SmtpLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpLogin")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

pub(super) fn read_smtp(section: &mut Section<'_, '_>) -> Option<SmtpSettings> {
    let host = read_host(section, "host").map(str::to_owned);
    if !section.has("host") {
        section.fault(
            "host",
            "an smtp route needs the host name or address of its relay",
        );
    }
    let mut smtp = SmtpSettings::new(host?, 25);
    let modes = [
        ("none", TlsMode::None),
        ("opportunistic", TlsMode::Opportunistic),
        ("required", TlsMode::Required),
        ("implicit", TlsMode::Implicit),
    ];
    set(&mut smtp.tls, section.choice("tls", &modes));
    if smtp.tls == TlsMode::Implicit {
        smtp.port = 465;
    }
    set_number(&mut smtp.port, section.number("port", 1..=65_535));
    smtp.login = read_login(section);
    if smtp.login.is_some()
        && matches!(smtp.tls, TlsMode::None | TlsMode::Opportunistic)
        && !is_local(&smtp.host)
    {
        section.fault(
            "password_file",
            "would be sent in the clear if TLS fails; set tls to required or implicit",
        );
    }
    read_session(&mut smtp.session, section);
    Some(smtp)
}

fn read_login(section: &mut Section<'_, '_>) -> Option<SmtpLogin> {
    let username = read_plain(section, "username").map(str::to_owned);
    let password = read_file(section, "password_file");
    if section.has("username") != section.has("password_file") {
        section.fault(
            "username",
            "username and password_file belong together; set both or neither",
        );
    }
    let password = String::from_utf8_lossy(without_line_end(&password?)).into_owned();
    Some(SmtpLogin {
        username: username?,
        password,
    })
}

/// Whether the host is this machine, so that no network is between us.
fn is_local(host: &str) -> bool {
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}
