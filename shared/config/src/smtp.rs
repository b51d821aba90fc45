//! The settings of the senders that speak SMTP: `smtp`, which hands mail to a relay, and `mx`,
//! which takes it to the recipients' own mail hosts.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use system::tls::TlsFiles;

use crate::hosts::HostRule;

/// The settings of a route whose sender is `smtp`.
#[derive(Clone, Debug)]
pub struct SmtpSettings {
    /// The relay's host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub tls: TlsMode,
    /// Who we are to the relay, where it asks.
    pub login: Option<SmtpLogin>,
    /// What every conversation has.
    pub session: SessionSettings,
}

/// The settings of a route whose sender is `mx`.
#[derive(Clone, Debug)]
pub struct MxSettings {
    /// The port of mail hosts; anything but 25 is for tests.
    pub port: u16,
    /// Whether connections are encrypted: [`TlsMode::None`], [`TlsMode::Opportunistic`] or
    /// [`TlsMode::Required`].
    pub tls: TlsMode,
    /// The recipients' domains for which TLS is required whatever `tls` says.
    pub tls_required: Vec<HostRule>,
    /// The addresses of our own that connections come from, taken in turn; none: the system
    /// chooses.
    pub sources: Vec<IpAddr>,
    /// Addresses that one attempt tries at most.
    pub hosts_max: usize,
    /// Lookups under way at once.
    pub lookups_max: usize,
    /// Whether mail may go to hosts whose address is private, loopback or otherwise not public.
    pub private_hosts: bool,
    /// Which DNS servers are asked; none: those of the system.
    pub nameservers: Vec<SocketAddr>,
    /// How long one lookup may take.
    pub lookup_timeout: Duration,
    /// What every conversation has.
    pub session: SessionSettings,
}

/// What every conversation has.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// What we call ourselves.
    pub helo: String,
    /// Connections to one host at most.
    pub connections: usize,
    /// Messages that one connection carries at most.
    pub messages_max: u32,
    /// How old a connection gets at most.
    pub age_max: Duration,
    /// How long a connection may be idle and be used again.
    pub idle_max: Duration,
    /// The time limit of each phase.
    pub timeouts: SmtpTimeouts,
    /// What is made of a message that was sent whole and not answered for.
    pub after_dot: AfterDot,
    /// What the peer is asked to report (RFC 3461).
    pub notify: Notify,
    /// The files of TLS.
    pub certificates: TlsFiles,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// Never.
    None,
    /// Where the peer offers STARTTLS, whatever its certificate says (RFC 7435); in the clear where
    /// that fails.
    Opportunistic,
    /// By STARTTLS, with a certificate that holds for the host; else nothing is sent.
    Required,
    /// From the first byte (RFC 8314), with a certificate that holds for the host.
    Implicit,
}

/// How long each phase of a conversation may take, whole replies included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmtpTimeouts {
    /// For one of the connections to become free, where all are in use. It is no phase: nobody is
    /// talked to yet.
    pub wait: Duration,
    /// The TCP connection, and the TLS handshake.
    pub connect: Duration,
    /// The greeting, and each of EHLO, STARTTLS and AUTH.
    pub greeting: Duration,
    /// MAIL and RSET.
    pub mail: Duration,
    /// RCPT.
    pub rcpt: Duration,
    /// DATA, and then once more the sending of the content.
    pub data: Duration,
    /// The answer to the final dot. Whoever is given up too early gets the message twice (RFC 5321,
    /// section 4.5.3.2.6).
    pub dot: Duration,
}

/// What is made of a message that was sent whole and not answered for: the peer may have it or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterDot {
    /// It is sent again by the next attempt, and may come twice.
    Resend,
    /// It counts as taken, and may be lost.
    AssumeDelivered,
}

/// What the peer is asked to report about a message, where it offers to (NOTIFY of RFC 3461,
/// section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    /// That it arrived.
    pub success: bool,
    /// That it did not.
    pub failure: bool,
    /// That it takes long.
    pub delay: bool,
    /// Nothing, ever.
    pub never: bool,
}

/// Who we are to a relay.
#[derive(Clone, PartialEq, Eq)]
pub struct SmtpLogin {
    /// The user.
    pub username: String,
    /// The password. It never prints.
    pub password: String,
}

impl SmtpSettings {
    /// A relay with the defaults: no TLS asked for, no login.
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
            session: SessionSettings::default(),
        }
    }
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            helo: "localhost".to_owned(),
            connections: 16,
            messages_max: 1_000,
            age_max: Duration::from_secs(300),
            idle_max: Duration::from_secs(15),
            timeouts: SmtpTimeouts::default(),
            after_dot: AfterDot::Resend,
            notify: Notify {
                failure: true,
                ..Notify::default()
            },
            certificates: TlsFiles::default(),
        }
    }
}

impl Default for SmtpTimeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            wait: Self::WAIT,
            connect: seconds(30),
            greeting: seconds(60),
            mail: seconds(60),
            rcpt: seconds(120),
            data: seconds(300),
            dot: seconds(600),
        }
    }
}

impl SmtpTimeouts {
    /// How long a free connection is waited for where nothing else is said.
    const WAIT: Duration = Duration::from_secs(300);

    /// The same limit for every phase.
    pub const fn all(limit: Duration) -> Self {
        Self {
            wait: Self::WAIT,
            connect: limit,
            greeting: limit,
            mail: limit,
            rcpt: limit,
            data: limit,
            dot: limit,
        }
    }

    /// How long one conversation that carries one message may take at most, with STARTTLS and AUTH.
    pub fn whole(&self) -> Duration {
        // Twice connect for the handshake; greeting, EHLO, STARTTLS, EHLO again and up to three
        // steps of AUTH.
        self.connect * 2 + self.greeting * 7 + self.mail + self.rcpt + self.data * 2 + self.dot
    }
}

impl Notify {
    /// The parameter's value; `None` where nothing is asked.
    pub fn value(self) -> Option<String> {
        if self.never {
            return Some("NEVER".to_owned());
        }
        let asked = [
            (self.success, "SUCCESS"),
            (self.failure, "FAILURE"),
            (self.delay, "DELAY"),
        ];
        let asked: Vec<_> = asked
            .into_iter()
            .filter_map(|(wanted, name)| wanted.then_some(name))
            .collect();
        (!asked.is_empty()).then(|| asked.join(","))
    }
}

impl fmt::Debug for SmtpLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpLogin")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}
