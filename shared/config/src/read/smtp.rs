//! Reads the settings of a route whose sender is `smtp` or `mx`.

use std::time::Duration;

use typed_toml::secret::{read_file, without_line_end};
use typed_toml::section::Section;
use typed_toml::set::{SECOND, set, set_number};

use crate::hosts::HostRule;
use crate::names::nameserver;
use crate::names::{read_host, read_plain};
use crate::smtp::{
    AfterDot, MxSettings, Notify, SessionSettings, SmtpLogin, SmtpSettings, SmtpTimeouts, TlsMode,
};
use crate::tls_files::read_tls;

const HOUR: Duration = Duration::from_secs(3_600);

pub(crate) fn read_smtp(section: &mut Section<'_, '_>) -> Option<SmtpSettings> {
    let host = read_host(section, "host").map(str::to_owned);
    if !section.has("host") {
        section.fault("host", "an smtp route needs the host of its relay");
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
            "would be sent in the clear where TLS fails; set tls to required or implicit",
        );
    }
    read_session(&mut smtp.session, section);
    Some(smtp)
}

pub(crate) fn read_mx(section: &mut Section<'_, '_>) -> MxSettings {
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
            Err(_) => section.fault("sources", format!("\"{text}\" is no IP address")),
        }
    }
    for text in section.texts("nameservers") {
        match nameserver(text) {
            Some(address) => mx.nameservers.push(address),
            None => {
                section.fault(
                    "nameservers",
                    format!("\"{text}\" is no address like \"192.0.2.53\""),
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

fn read_session(session: &mut SessionSettings, section: &mut Section<'_, '_>) {
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

/// One limit for all, and limits for phases over it. The answer to the final dot keeps its ten
/// minutes where only the one for all is named: who is given up too early gets the message twice.
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
        section.fault("notify", "never stands alone (RFC 3461, section 4.1)");
    }
    notify
}

fn read_login(section: &mut Section<'_, '_>) -> Option<SmtpLogin> {
    let username = read_plain(section, "username").map(str::to_owned);
    let password = read_file(section, "password_file");
    if section.has("username") != section.has("password_file") {
        section.fault(
            "username",
            "username and password_file belong together; give both or none",
        );
    }
    let password = String::from_utf8_lossy(without_line_end(&password?)).into_owned();
    Some(SmtpLogin {
        username: username?,
        password,
    })
}

/// Whether nobody is between us and the host.
fn is_local(host: &str) -> bool {
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::DEFAULT;
    use crate::model::Config;
    use crate::route::SenderSettings;
    use typed_toml::fault::SettingsFaults;

    fn read(route: &str) -> Result<SenderSettings, SettingsFaults> {
        let file = format!("[[route]]\nname = \"r\"\n{route}");
        let config = Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", &file)], &[])?;
        Ok(config
            .routes
            .into_iter()
            .find(|route| route.name == "r")
            .unwrap()
            .sender)
    }

    #[test]
    fn a_limit_for_all_phases_leaves_time_for_the_content_and_phases_override_it() {
        let relay = "sender = \"smtp\"\nhost = \"relay.example\"\ntimeout = \"5s\"\ntimeouts = { rcpt = \"7s\", wait = \"9s\" }";
        let Ok(SenderSettings::Smtp(smtp)) = read(relay) else {
            panic!()
        };
        let timeouts = smtp.session.timeouts;
        assert_eq!(
            (timeouts.connect, timeouts.mail, timeouts.rcpt),
            (5 * SECOND, 5 * SECOND, 7 * SECOND)
        );
        assert_eq!(timeouts.wait, 9 * SECOND);
        assert_eq!((timeouts.data, timeouts.dot), (300 * SECOND, 600 * SECOND));
    }

    #[test]
    fn what_is_asked_to_be_reported_is_said_as_rfc_3461_has_it() {
        for (notify, value) in [
            ("[\"failure\", \"delay\"]", Some("FAILURE,DELAY")),
            ("\"never\"", Some("NEVER")),
            ("[]", None),
        ] {
            let Ok(SenderSettings::Mx(mx)) = read(&format!("sender = \"mx\"\nnotify = {notify}"))
            else {
                panic!()
            };
            assert_eq!(mx.session.notify.value().as_deref(), value);
        }
    }

    #[test]
    fn what_cannot_work_or_would_tell_a_secret_is_a_fault() {
        let relay = "sender = \"smtp\"\nhost = \"relay.example\"\n";
        for (text, key, why) in [
            ("username = \"ann\"", "route.r.username", "belong together"),
            (
                "username = \"ann\"\npassword_file = \"Cargo.toml\"",
                "route.r.password_file",
                "in the clear",
            ),
            ("tls = \"always\"", "route.r.tls", "is not one of"),
            (
                "tls_cert_file = \"/dev/null\"",
                "route.r.tls_cert_file",
                "belong together",
            ),
            (
                "notify = [\"never\", \"delay\"]",
                "route.r.notify",
                "stands alone",
            ),
            (
                "timeouts = { data = \"never\" }",
                "route.r.timeouts.data",
                "span of time",
            ),
            (
                "after_dot = \"pray\"",
                "route.r.after_dot",
                "assume_delivered",
            ),
        ] {
            let faults = read(&format!("{relay}{text}")).unwrap_err();
            assert!(
                faults
                    .0
                    .iter()
                    .any(|fault| fault.key == key && fault.text.contains(why)),
                "{text}: {faults}"
            );
        }
        let faults = read("sender = \"mx\"\nsources = [\"here\"]\ntls = \"implicit\"").unwrap_err();
        let keys: Vec<_> = faults.0.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, ["route.r.tls", "route.r.sources"], "{faults}");
        let faults = read("sender = \"mx\"\ntls_required = [\"*example.org\"]").unwrap_err();
        assert_eq!(faults.0[0].key, "route.r.tls_required", "{faults}");
        assert!(
            faults.0[0]
                .text
                .contains("\"*example.org\" is no host like"),
            "{faults}"
        );
    }
}
