//! What a `[[route]]` may contain, and which faults are reported.

use std::time::Duration;

use signing::webhook_signature::Signer;
use toml::Table;
use typed_toml::fault::SettingsFault;
use typed_toml::section::Section;
use typed_toml::set::SECOND;
use url::Url;

use crate::settings::command::check_placeholders;
use crate::settings::http::{HttpSettings, post_url};
use crate::settings::route::{Route, SenderSettings, check_http_hosts, read_route};

/// Reads the settings of the sender of a route called `r`.
fn read(text: &str) -> Result<SenderSettings, Vec<SettingsFault>> {
    let table: Table = toml::from_str(&format!("name = \"r\"\n{text}")).unwrap();
    let mut faults = Vec::new();
    let route = read_route(Section::new("mine.toml", "route.r", &table, &mut faults));
    match route {
        Some(route) if faults.is_empty() => Ok(route.sender),
        _ => Err(faults),
    }
}

#[test]
fn a_limit_for_all_phases_leaves_time_for_the_content_and_phase_limits_override_it() {
    let relay = "sender = \"smtp\"\nhost = \"relay.example\"\ntimeout = \"5s\"\n\
                 timeouts = { rcpt = \"7s\", wait = \"9s\" }";
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
fn notify_is_written_as_in_rfc_3461() {
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
fn settings_that_cannot_work_or_would_reveal_a_secret_are_faults() {
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
            "only value",
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
                .iter()
                .any(|fault| fault.key == key && fault.text.contains(why)),
            "{text}: {faults:?}"
        );
    }
    let faults = read("sender = \"mx\"\nsources = [\"here\"]\ntls = \"implicit\"").unwrap_err();
    let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["route.r.tls", "route.r.sources"], "{faults:?}");
    let faults = read("sender = \"mx\"\ntls_required = [\"*example.org\"]").unwrap_err();
    assert_eq!(faults[0].key, "route.r.tls_required", "{faults:?}");
    assert!(
        faults[0].text.contains("\"*example.org\" is "),
        "{faults:?}"
    );
}

#[test]
fn mail_is_posted_over_tls_or_on_this_machine() {
    for (url, cleartext, good) in [
        ("https://mail.example.com/redeliver", false, true),
        ("http://127.0.0.1:8080/", false, true),
        ("http://[::1]/", false, true),
        ("http://localhost/x", false, true),
        ("http://mail.example.com/", false, false),
        ("http://mail.example.com/", true, true),
        ("https://user:word@mail.example.com/", false, false),
        ("ftp://mail.example.com/", true, false),
        ("mail.example.com", false, false),
    ] {
        assert_eq!(post_url(url, cleartext).is_ok(), good, "{url}");
    }
}

#[test]
fn an_http_route_posts_only_to_hosts_of_the_list() {
    let route = |url: &str| Route {
        name: "platform".to_owned(),
        confirm: Duration::ZERO,
        sender: SenderSettings::Http(Box::new(HttpSettings {
            url: Url::parse(url).unwrap(),
            signer: Signer::from_secrets("whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcY").unwrap(),
            ca: None,
            content: false,
            connect_timeout: SECOND,
            timeout: SECOND,
            request_max: 1,
            answer_max: 1,
        })),
    };
    let hosts = ["mail.example.com", "*.example.org"].map(|rule| rule.parse().unwrap());
    for (hosts, url, good) in [
        (&hosts[..], "https://mail.example.com/redeliver", true),
        (&hosts, "https://MAIL.example.com:8443/", true),
        (&hosts, "https://a.b.example.org/", true),
        (&hosts, "https://example.org/", false),
        (&hosts, "https://mail.example.com.evil.example/", false),
        (&hosts, "https://notexample.org/", false),
        (&hosts, "https://192.0.2.1/", false),
        (&[], "https://anywhere.example/", true),
    ] {
        let mut faults = Vec::new();
        check_http_hosts(hosts, &[route(url)], &mut faults);
        assert_eq!(faults.is_empty(), good, "{url}: {faults:?}");
    }
}

#[test]
fn a_fault_for_a_missing_key_explains_how_to_set_it() {
    for (text, key, expected) in [
        (
            "sender = \"http\"\nurl = \"http://localhost/\"",
            "route.r.secret_file",
            "openssl rand",
        ),
        (
            "sender = \"http\"\nsecret_file = \"/dev/null\"",
            "route.r.secret_file",
            "a device",
        ),
        (
            "sender = \"http\"\nsecret_file = \"Cargo.toml\"",
            "route.r.secret_file",
            "openssl rand",
        ),
        (
            "sender = \"command\"\nprogram = \"/bin/true\"",
            "route.r.arguments",
            "{recipient}",
        ),
        (
            "sender = \"command\"\nprogram = \"/bin/true\"",
            "route.r.arguments",
            "standard input",
        ),
    ] {
        let faults = read(text).unwrap_err();
        let is_reported = faults
            .iter()
            .any(|fault| fault.key == key && fault.text.contains(expected));
        assert!(is_reported, "{text}: {faults:?}");
    }
}

#[test]
fn only_placeholders_are_allowed_in_braces() {
    for (argument, unknown) in [
        ("--", None),
        ("-f{sender}", None),
        ("{recipient}{message_id}", None),
        ("{from}", Some("{from}")),
        ("{sender}{", Some("{")),
    ] {
        assert_eq!(check_placeholders(argument).err(), unknown, "{argument}");
    }
}

#[test]
fn a_misspelt_sender_is_the_only_fault_of_its_route() {
    let faults = read("sender = \"smpt\"\nhost = \"relay.example\"").unwrap_err();
    let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["route.r.sender"], "{faults:?}");
}
