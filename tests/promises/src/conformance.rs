//! Every sender keeps what the suite of the seam asks.

use std::time::Duration;

use bytes::Bytes;
use harness::dns::{DnsServer, Mood};
use harness::mail::MailSystem;
use harness::platform::{Platform, Say};
use harness::smtp::{Act, SmtpPeer, agree};
use senders::attempt::Attempt;
use senders::conformance::{Subject, conforms, ends_in_time};
use senders::log::LogSender;
use senders::mx::MxSender;
use senders::sender::Sender;
use senders::settings::mx::MxSettings;
use senders::settings::session::SmtpTimeouts;
use senders::settings::smtp::SmtpSettings;
use senders::smtp::SmtpSender;

use crate::senders::{PATIENT, Program, http};

#[path = "../../../examples/custom_sender/printer.rs"]
mod custom_sender;

#[tokio::test]
async fn http_conforms() {
    let platform =
        Platform::start(|_| Say::Answer(200, None, r#"{"outcome":"accepted"}"#.to_owned())).await;
    let sender = http(&platform, PATIENT);
    let received = async || {
        let decoded =
            platform
                .posted()
                .into_iter()
                .map(|posted| match posted.json["content"].as_str() {
                    Some(text) => Bytes::from(text.to_owned()),
                    None => Bytes::from(harness::platform::decoded(&posted.json["content_base64"])),
                });
        decoded.collect()
    };
    conforms(
        &Subject {
            sender: &sender,
            limit: PATIENT,
            takes_utf8: true,
        },
        received,
    )
    .await;
}

#[tokio::test]
async fn command_conforms() {
    let program = Program::new("cat >FOLDER/mail.$$");
    let sender = program.sender(PATIENT);
    let received = async || {
        let files = std::fs::read_dir(program.folder.path()).unwrap();
        files
            .map(|file| std::fs::read(file.unwrap().path()).unwrap().into())
            .collect()
    };
    conforms(
        &Subject {
            sender: &sender,
            limit: PATIENT,
            takes_utf8: true,
        },
        received,
    )
    .await;
}

fn smtp(peer: &SmtpPeer, limit: Duration) -> SmtpSender {
    let mut settings = SmtpSettings::new(peer.address.ip().to_string(), peer.address.port());
    settings.session.timeouts = SmtpTimeouts::all(limit);
    SmtpSender::new(settings)
}

#[tokio::test]
async fn smtp_conforms() {
    let peer = SmtpPeer::agreeable().await;
    let sender = smtp(&peer, PATIENT);
    let received = async || peer.contents();
    conforms(
        &Subject {
            sender: &sender,
            limit: PATIENT,
            takes_utf8: false,
        },
        received,
    )
    .await;
}

/// A server that takes every mail, with every extension.
async fn capable() -> SmtpPeer {
    SmtpPeer::start(|received| match received.command.starts_with("EHLO") {
        true => Act::Say("250-peer.example\r\n250-PIPELINING\r\n250-SIZE 0\r\n250-DSN\r\n250-8BITMIME\r\n250 SMTPUTF8"),
        false => agree(&received.command),
    })
    .await
}

/// Checks that no message has put a command of its own among ours: its id goes out as ENVID, where
/// that is offered.
fn was_told_nothing_else(peer: &SmtpPeer) {
    let received = peer.received();
    for command in received.iter().map(|received| received.command.as_str()) {
        let ours = ["EHLO ", "MAIL FROM:<", "RCPT TO:<", "DATA", "RSET", "QUIT"]
            .iter()
            .any(|ours| command.starts_with(ours));
        assert!(
            ours || command.is_empty() || command == ".",
            "a command that is not ours: {command:?}"
        );
        assert!(
            !command.contains("RCPT TO:<sam@example.com>"),
            "a recipient that is not ours: {command:?}"
        );
        assert!(
            !command.bytes().any(|byte| byte.is_ascii_control()),
            "{command:?}"
        );
    }
    assert!(
        received.iter().any(|received| received
            .command
            .contains("ENVID=no+0D+0AX-Injected:+20line+00")),
        "{received:?}"
    );
}

#[tokio::test]
async fn smtp_conforms_with_every_extension() {
    let peer = capable().await;
    let sender = smtp(&peer, PATIENT);
    let received = async || peer.contents();
    conforms(
        &Subject {
            sender: &sender,
            limit: PATIENT,
            takes_utf8: true,
        },
        received,
    )
    .await;
    was_told_nothing_else(&peer);
}

fn mx(dns: &DnsServer, peer: &SmtpPeer, limit: Duration) -> MxSender {
    for domain in ["example.com", "xn--r8jz45g.example"] {
        dns.knows(domain, &[(10, "mx.example.com.")]);
    }
    dns.places("mx.example.com", &["127.0.0.1"]);
    let mut settings = MxSettings {
        port: peer.address.port(),
        private_hosts: true,
        nameservers: vec![dns.address],
        lookup_timeout: limit,
        ..MxSettings::default()
    };
    settings.session.timeouts = SmtpTimeouts::all(limit);
    MxSender::new(settings)
}

#[tokio::test]
async fn mx_conforms() {
    let (dns, peer) = (DnsServer::start().await, capable().await);
    let sender = mx(&dns, &peer, PATIENT);
    let received = async || peer.contents();
    conforms(
        &Subject {
            sender: &sender,
            limit: PATIENT,
            takes_utf8: true,
        },
        received,
    )
    .await;
    was_told_nothing_else(&peer);
}

#[tokio::test]
async fn where_the_peer_hangs_every_sender_has_an_outcome_within_its_limit() {
    const SHORT: Duration = Duration::from_millis(200);
    let platform = Platform::start(|_| Say::Nothing).await;
    let silent = SmtpPeer::start(|_| Act::Hang).await;
    let mute = SmtpPeer::start(|received| {
        if received.command == "." {
            Act::Hang
        } else {
            agree(&received.command)
        }
    })
    .await;
    let (dns, program) = (DnsServer::start().await, Program::new("sleep 60"));
    let asked = DnsServer::start().await;
    let (by_http, by_command) = (http(&platform, SHORT), program.sender(SHORT));
    let (to_relay, to_host) = (
        [smtp(&silent, SHORT), smtp(&mute, SHORT)],
        mx(&dns, &mute, SHORT),
    );
    let to_nobody = mx(&asked, &mute, SHORT);
    asked.becomes(Mood::Silent);
    let senders: [(&str, &dyn Sender); 6] = [
        ("http", &by_http),
        ("command", &by_command),
        ("smtp, silent", &to_relay[0]),
        ("smtp, mute", &to_relay[1]),
        ("mx", &to_host),
        ("mx, no DNS", &to_nobody),
    ];
    for (name, sender) in senders {
        ends_in_time(
            name,
            &Subject {
                sender,
                limit: SmtpTimeouts::all(SHORT).whole(),
                takes_utf8: true,
            },
        )
        .await;
    }
}

/// A sender that is no use for bytes: the suite looks at everything else.
async fn conforms_without_bytes(sender: &dyn Sender) {
    let wanted = Unsent(sender);
    conforms(
        &Subject {
            sender: &wanted,
            limit: Duration::from_secs(1),
            takes_utf8: true,
        },
        async || Vec::new(),
    )
    .await;
}

struct Unsent<'a>(&'a dyn Sender);

#[async_trait::async_trait]
impl Sender for Unsent<'_> {
    async fn send(&self, attempt: &Attempt) -> domain::outcome::Outcome {
        self.0.send(attempt).await
    }

    fn wants_content(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn log_the_tests_own_mail_system_and_the_example_conform() {
    conforms_without_bytes(&LogSender).await;
    conforms_without_bytes(&custom_sender::Printer).await;
    conforms_without_bytes(&MailSystem::default()).await;
}
