//! TLS works with a real Postfix as the relay.

use domain::outcome::{FaultKind, Outcome, Side};
use harness::postfix::{Postfix, Settings};
use senders::sender::Sender;
use senders::settings::session::TlsMode;
use senders::settings::smtp::SmtpSettings;
use senders::smtp::SmtpSender;

use super::Tls;
use crate::smtp::mail;

/// A Postfix with these lines of `main.cf`. It accepts all mail and keeps it.
async fn relay(main: Vec<String>) -> Postfix {
    // No server listens at that address.
    let transports = vec![("example.com".to_owned(), "smtp:[127.0.0.1]:9".to_owned())];
    Postfix::start(Settings {
        transports,
        main,
        ..Settings::default()
    })
    .await
}

fn settings(relay: &Postfix, mode: TlsMode, authority: Option<Vec<u8>>) -> SmtpSettings {
    let mut settings = SmtpSettings::new(relay.address.ip().to_string(), relay.address.port());
    settings.tls = mode;
    settings.session.certificates.authority = authority;
    settings
}

#[tokio::test]
async fn a_certificate_is_verified_only_if_tls_is_required() {
    let (tls, stranger, misnamed) = (
        Tls::of("127.0.0.1"),
        Tls::of("127.0.0.1"),
        Tls::of("mx1.example.com"),
    );
    let good = relay(tls.main_cf()).await;
    let bad = relay(misnamed.main_cf()).await;
    for (name, relay, mode, authority, version) in [
        (
            "known",
            &good,
            TlsMode::Required,
            tls.authority(),
            Some(Some("TLSv1.3")),
        ),
        (
            "unknown",
            &good,
            TlsMode::Required,
            stranger.authority(),
            None,
        ),
        (
            "for another name",
            &bad,
            TlsMode::Required,
            misnamed.authority(),
            None,
        ),
        (
            "unknown, and not verified",
            &good,
            TlsMode::Opportunistic,
            stranger.authority(),
            Some(Some("TLSv1.3")),
        ),
        (
            "for another name, and not verified",
            &bad,
            TlsMode::Opportunistic,
            None,
            Some(Some("TLSv1.3")),
        ),
        ("in the clear", &good, TlsMode::None, None, Some(None)),
    ] {
        let sender = SmtpSender::new(settings(relay, mode, authority));
        let queued = relay.log().matches(": client=").count();
        let (outcome, transcript) = sender.send_traced(&mail("m1")).await;
        match version {
            Some(version) => {
                assert!(
                    matches!(outcome, Outcome::Accepted(_)),
                    "{name}: {outcome:?}, {}",
                    relay.log()
                );
                assert_eq!(
                    transcript.expect("a connection was made").tls.as_deref(),
                    version,
                    "{name}"
                );
            }
            None => {
                let Outcome::Unreachable(fault) = outcome else {
                    panic!("{name}: {outcome:?}")
                };
                assert_eq!(
                    (fault.kind, fault.side),
                    (FaultKind::Tls, Side::Ours),
                    "{name}: {fault}"
                );
                assert_eq!(
                    relay.log().matches(": client=").count(),
                    queued,
                    "{name}: no mail was sent"
                );
            }
        }
    }
    assert!(
        good.log().contains("TLS connection established from"),
        "{}",
        good.log()
    );
}

#[tokio::test]
async fn a_relay_without_tls_gets_no_mail_if_tls_is_required() {
    let relay = relay(Vec::new()).await;
    let Outcome::Unreachable(fault) = SmtpSender::new(settings(&relay, TlsMode::Required, None))
        .send(&mail("m1"))
        .await
    else {
        panic!("the relay offers no TLS")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Tls, Side::Ours),
        "{fault}"
    );
    assert!(!relay.log().contains(": client="), "{}", relay.log());
}

#[tokio::test]
async fn if_the_relay_requires_tls_and_we_use_none_the_fault_is_on_our_side_and_not_the_messages() {
    let tls = Tls::of("127.0.0.1");
    let mut main = tls.main_cf();
    main.push("smtpd_tls_security_level = encrypt".to_owned());
    let relay = relay(main).await;
    let outcome = SmtpSender::new(settings(&relay, TlsMode::None, None))
        .send(&mail("m1"))
        .await;
    let Outcome::Unreachable(fault) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Connect, Side::Ours),
        "{fault}"
    );
    assert!(fault.text.contains("530 5.7.0"), "{fault}");
}
