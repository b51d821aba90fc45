//! The settings of an SMTP session, which the senders `smtp` and `mx` share.

use std::time::Duration;

use system::tls::TlsFiles;
use system::tls_files::read_tls;
use typed_toml::section::Section;
use typed_toml::set::{SECOND, set, set_number};

const HOUR: Duration = Duration::from_secs(3_600);

/// The settings of each session.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// The host name that we give in EHLO.
    pub helo: String,
    /// How many connections to one host are open at most.
    pub connections: usize,
    /// How many messages one connection carries at most.
    pub messages_max: u32,
    /// How old a connection may become.
    pub age_max: Duration,
    /// How long a connection may be idle before it is closed.
    pub idle_max: Duration,
    /// The time limit of each phase.
    pub timeouts: SmtpTimeouts,
    /// What happens to a message that was completely sent but got no answer.
    pub after_dot: AfterDot,
    /// Which reports are requested from the peer (RFC 3461).
    pub notify: Notify,
    /// The certificates and the key for TLS.
    pub certificates: TlsFiles,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// Never.
    None,
    /// With STARTTLS if the peer offers it, and with any certificate (RFC 7435). If TLS fails, the
    /// connection is made again without encryption.
    Opportunistic,
    /// With STARTTLS and a certificate that matches the host. Otherwise nothing is sent.
    Required,
    /// From the first byte (RFC 8314), with a certificate that matches the host.
    Implicit,
}

/// How long each phase of a conversation may take, including the whole reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmtpTimeouts {
    /// Waiting for a free connection if all are in use. The peer is not contacted yet.
    pub wait: Duration,
    /// The TCP connection, and the TLS handshake.
    pub connect: Duration,
    /// The greeting, and each of EHLO, STARTTLS and AUTH.
    pub greeting: Duration,
    /// MAIL and RSET.
    pub mail: Duration,
    /// RCPT.
    pub rcpt: Duration,
    /// DATA, and the same time again for sending the content.
    pub data: Duration,
    /// The answer to the final dot, which ends the content. If the limit is too short, the
    /// recipient gets the message twice (RFC 5321, section 4.5.3.2.6).
    pub dot: Duration,
}

/// What happens to a message that was completely sent but got no answer. The peer may have it or
/// not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterDot {
    /// The next attempt sends it again, and it may arrive twice.
    Resend,
    /// It counts as accepted, and may be lost.
    AssumeDelivered,
}

/// Which reports about a message are requested from the peer, if the peer offers DSN (NOTIFY of RFC
/// 3461, section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    /// That the message was delivered.
    pub success: bool,
    /// That delivery failed.
    pub failure: bool,
    /// That delivery is delayed.
    pub delay: bool,
    /// No reports at all.
    pub never: bool,
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
    /// The default of `wait`.
    const WAIT: Duration = Duration::from_secs(300);

    /// Returns limits that are the same for every phase, except that `wait` has its default.
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

    /// Returns how long a conversation that sends one message may take at most, including STARTTLS
    /// and AUTH.
    pub fn whole(&self) -> Duration {
        // Connect counts twice, for TCP and TLS. The greeting limit counts for the greeting, EHLO,
        // STARTTLS, the second EHLO and up to three steps of AUTH.
        self.connect * 2 + self.greeting * 7 + self.mail + self.rcpt + self.data * 2 + self.dot
    }
}

impl Notify {
    /// Returns the value of the NOTIFY parameter; `None` if nothing is requested.
    pub fn value(self) -> Option<String> {
        if self.never {
            return Some("NEVER".to_owned());
        }
        let requested = [
            (self.success, "SUCCESS"),
            (self.failure, "FAILURE"),
            (self.delay, "DELAY"),
        ];
        let requested: Vec<_> = requested
            .into_iter()
            .filter_map(|(wanted, name)| wanted.then_some(name))
            .collect();
        (!requested.is_empty()).then(|| requested.join(","))
    }
}

pub(super) fn read_session(session: &mut SessionSettings, section: &mut Section<'_, '_>) {
    set(&mut session.helo, section.text("helo").map(str::to_owned));
    if session.helo.is_empty() || !session.helo.bytes().all(|b| b.is_ascii_graphic()) {
        section.fault("helo", "must be a host name, or an address in brackets");
    }
    set_number(
        &mut session.connections,
        section.number("connections", 1..=10_000),
    );
    set_number(
        &mut session.messages_max,
        section.number("messages_max", 1..=1_000_000),
    );
    set(
        &mut session.age_max,
        section.duration("age_max", SECOND..=24 * HOUR),
    );
    set(
        &mut session.idle_max,
        section.duration("idle_max", SECOND / 10..=HOUR),
    );
    read_timeouts(&mut session.timeouts, section);
    let choices = [
        ("resend", AfterDot::Resend),
        ("assume_delivered", AfterDot::AssumeDelivered),
    ];
    set(
        &mut session.after_dot,
        section.choice("after_dot", &choices),
    );
    if section.has("notify") {
        session.notify = read_notify(section);
    }
    read_tls(&mut session.certificates, section);
}

/// Reads `timeout`, one limit for all phases, and `timeouts`, which override it for single phases.
/// `timeout` alone never shortens two limits below their defaults: that of the content, and that of
/// the answer to the final dot (ten minutes). If the wait for that answer ends too early, the
/// recipient gets the message twice.
fn read_timeouts(timeouts: &mut SmtpTimeouts, section: &mut Section<'_, '_>) {
    let allowed = SECOND / 10..=HOUR;
    if let Some(limit) = section.duration("timeout", allowed.clone()) {
        let usual = SmtpTimeouts::default();
        let (data, dot) = (limit.max(usual.data), limit.max(usual.dot));
        *timeouts = SmtpTimeouts {
            data,
            dot,
            ..SmtpTimeouts::all(limit)
        };
    }
    section.within("timeouts", |section| {
        set(
            &mut timeouts.wait,
            section.duration("wait", allowed.clone()),
        );
        set(
            &mut timeouts.connect,
            section.duration("connect", allowed.clone()),
        );
        set(
            &mut timeouts.greeting,
            section.duration("greeting", allowed.clone()),
        );
        set(
            &mut timeouts.mail,
            section.duration("mail", allowed.clone()),
        );
        set(
            &mut timeouts.rcpt,
            section.duration("rcpt", allowed.clone()),
        );
        set(
            &mut timeouts.data,
            section.duration("data", allowed.clone()),
        );
        set(&mut timeouts.dot, section.duration("dot", allowed.clone()));
    });
}

fn read_notify(section: &mut Section<'_, '_>) -> Notify {
    let mut notify = Notify::default();
    let names = section.texts("notify");
    for name in &names {
        match *name {
            "success" => notify.success = true,
            "failure" => notify.failure = true,
            "delay" => notify.delay = true,
            "never" => notify.never = true,
            other => {
                section.fault(
                    "notify",
                    format!("\"{other}\" is not one of success, failure, delay, never"),
                );
            }
        }
    }
    if notify.never && names.len() > 1 {
        section.fault(
            "notify",
            "never must be the only value (RFC 3461, section 4.1)",
        );
    }
    notify
}
