//! TLS is used as configured: if it is opportunistic it is used when offered, and if it is required
//! no mail is sent without it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use domain::outcome::{FaultKind, Outcome};
use domain::transcript::Transcript;
use harness::certificates::Certificates;
use harness::smtp::{Act, Received, SmtpPeer, agree};
use senders::sender::Sender;
use senders::settings::session::{SmtpTimeouts, TlsMode};
use senders::settings::smtp::SmtpSettings;
use senders::smtp::SmtpSender;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::{mail, our_fault};

const OFFERS: &str = "250-peer.example\r\n250-STARTTLS\r\n250 8BITMIME";

/// Starts peers with one authority, and sends to them.
struct TlsPeers {
    files: Certificates,
    _folder: TempDir,
}

impl TlsPeers {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        Self {
            files: Certificates::make(folder.path()),
            _folder: folder,
        }
    }

    fn acceptor(&self, asks: bool) -> TlsAcceptor {
        if asks {
            self.files.acceptor_for_known_clients()
        } else {
            self.files.acceptor()
        }
    }

    /// Starts a peer that offers TLS. `asks` means that it requires a certificate from the client.
    async fn peer(
        &self,
        asks: bool,
        script: impl Fn(&Received) -> Act + Send + Sync + 'static,
    ) -> SmtpPeer {
        SmtpPeer::start_at(
            ([127, 0, 0, 1], 0).into(),
            Some(self.acceptor(asks)),
            script,
        )
        .await
    }

    /// The settings of a sender to `peer`. `trusts` means that it trusts the peer's authority.
    fn settings(&self, peer: &SmtpPeer, tls: TlsMode, trusts: bool) -> SmtpSettings {
        let mut settings = SmtpSettings::new(peer.address.ip().to_string(), peer.address.port());
        settings.tls = tls;
        settings.session.timeouts = SmtpTimeouts::all(Duration::from_secs(5));
        let stranger = || TlsPeers::new().pem(|files| &files.authority);
        let authority = if trusts {
            self.pem(|files| &files.authority)
        } else {
            stranger()
        };
        settings.session.certificates.authority = Some(authority);
        settings
    }

    /// Sends a message to `peer`. Returns the outcome and the transcript of the conversation.
    async fn send(
        &self,
        peer: &SmtpPeer,
        tls: TlsMode,
        trusts: bool,
    ) -> (Outcome, Option<Transcript>) {
        let sender = SmtpSender::new(self.settings(peer, tls, trusts));
        sender.send_traced(&mail("m1")).await
    }

    /// The content of one of the files.
    fn pem<P: AsRef<Path>>(&self, which: impl Fn(&Certificates) -> &P) -> Vec<u8> {
        fs::read(which(&self.files)).expect("the file was written")
    }
}

fn offering(received: &Received) -> Act {
    match received.command.split(' ').next().unwrap_or_default() {
        "EHLO" => Act::Say(OFFERS),
        "STARTTLS" => Act::Encrypt("220 go on"),
        _ => agree(&received.command),
    }
}

#[tokio::test]
async fn offered_tls_is_used_and_required_tls_is_verified() {
    let peers = TlsPeers::new();
    for (mode, trusts, version) in [
        (TlsMode::None, true, Some(None)),
        (TlsMode::Opportunistic, false, Some(Some("TLSv1.3"))),
        (TlsMode::Required, true, Some(Some("TLSv1.3"))),
        (TlsMode::Required, false, None),
    ] {
        let peer = peers.peer(false, offering).await;
        let (outcome, transcript) = peers.send(&peer, mode, trusts).await;
        let transcript = transcript.expect("a connection was made");
        match version {
            Some(version) => {
                assert!(
                    matches!(outcome, Outcome::Accepted(_)),
                    "{mode:?}: {outcome:?}"
                );
                assert_eq!(transcript.tls.as_deref(), version, "{mode:?}");
                assert_eq!(transcript.address, peer.address.to_string());
            }
            None => {
                let fault = our_fault(outcome, "required, not trusted");
                assert_eq!(fault.kind, FaultKind::Tls, "{fault}");
                assert!(peer.connections_of("MAIL").is_empty(), "no mail is sent");
            }
        }
    }
}

#[tokio::test]
async fn if_tls_is_missing_or_fails_mail_is_sent_in_the_clear_unless_tls_is_required() {
    let peers = TlsPeers::new();
    let early = Act::Encrypt("220 go on\r\n250 spoken before TLS began");
    // What the relay does at which command.
    for (name, command, act) in [
        ("not offered", "EHLO", Act::Say("250 peer.example")),
        (
            "refused",
            "STARTTLS",
            Act::Say("454 4.7.0 TLS not available"),
        ),
        ("broken", "STARTTLS", early),
        ("closed", "STARTTLS", Act::Close),
    ] {
        let script = move |received: &Received| match received.is(command) {
            true => act,
            false => offering(received),
        };
        let peer = peers.peer(false, script).await;
        let (sent, _) = peers.send(&peer, TlsMode::Opportunistic, true).await;
        assert!(matches!(sent, Outcome::Accepted(_)), "{name}: {sent:?}");

        let peer = peers.peer(false, script).await;
        let (sent, _) = peers.send(&peer, TlsMode::Required, true).await;
        our_fault(sent, name);
        assert!(
            peer.connections_of("MAIL").is_empty(),
            "{name}: no mail is sent"
        );
    }
}

#[tokio::test]
async fn a_relay_that_asks_for_our_certificate_gets_it() {
    let peers = TlsPeers::new();
    for shows in [true, false] {
        let peer = peers.peer(true, offering).await;
        let mut settings = peers.settings(&peer, TlsMode::Required, true);
        if shows {
            let files = (
                peers.pem(|files| &files.certificate),
                peers.pem(|files| &files.key),
            );
            settings.session.certificates.certificate = Some(files);
        }
        let sent = SmtpSender::new(settings).send(&mail("m1")).await;
        assert_eq!(matches!(sent, Outcome::Accepted(_)), shows, "{sent:?}");
    }
}

#[tokio::test]
async fn if_tls_fails_right_after_the_handshake_mail_is_sent_in_the_clear_unless_tls_is_required() {
    let peers = TlsPeers::new();
    // We have no client certificate. With TLS 1.3 the refusal comes only after the handshake seems
    // complete.
    let peer = peers.peer(true, offering).await;
    let (outcome, transcript) = peers.send(&peer, TlsMode::Opportunistic, true).await;
    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    assert_eq!(transcript.expect("a connection was made").tls, None);

    let peer = peers.peer(true, offering).await;
    let (sent, _) = peers.send(&peer, TlsMode::Required, true).await;
    let fault = our_fault(sent, "required");
    assert_eq!(fault.kind, FaultKind::Tls, "{fault}");
    assert!(peer.connections_of("MAIL").is_empty(), "no mail is sent");
}

#[tokio::test]
async fn tls_from_the_first_byte_is_verified_and_no_mail_is_sent_without_it() {
    let peers = TlsPeers::new();
    let plain = |received: &Received| agree(&received.command);
    for trusts in [true, false] {
        let peer = SmtpPeer::start_encrypted(peers.acceptor(false), plain).await;
        let (outcome, transcript) = peers.send(&peer, TlsMode::Implicit, trusts).await;
        if trusts {
            assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
            assert_eq!(
                transcript.expect("a connection was made").tls.as_deref(),
                Some("TLSv1.3")
            );
            assert!(peer.connections_of("STARTTLS").is_empty());
            continue;
        }
        let fault = our_fault(outcome, "not trusted");
        assert_eq!(fault.kind, FaultKind::Tls, "{fault}");
        assert_eq!(peer.received(), [], "no mail is sent");
    }
    let peer = peers.peer(false, plain).await;
    let (sent, _) = peers.send(&peer, TlsMode::Implicit, true).await;
    let fault = our_fault(sent, "a peer without TLS");
    assert_eq!(fault.kind, FaultKind::Tls, "{fault}");
}
