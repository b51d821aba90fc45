//! Every sender meets the requirements that a sender must meet, and returns an outcome within its
//! time limit.

use std::time::Duration;

use bytes::Bytes;
use harness::dns::{Behavior, DnsServer};
use harness::mail::MailSystem;
use harness::platform::{Action, Platform};
use harness::smtp::{Act, SmtpPeer};
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
#[allow(dead_code, reason = "its worker is not run")]
mod custom_sender;

/// A sender to check, whose time limit is [`PATIENT`].
fn subject(sender: &dyn Sender, takes_utf8: bool) -> Subject<'_> {
    Subject {
        sender,
        limit: PATIENT,
        takes_utf8,
    }
}

#[tokio::test]
async fn the_http_sender_meets_the_requirements_of_a_sender() {
    let platform =
        Platform::start(|_| Action::Answer(200, None, r#"{"outcome":"accepted"}"#.to_owned()))
            .await;
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
    conforms(&subject(&sender, true), received).await;
}

#[tokio::test]
async fn the_command_sender_meets_the_requirements_of_a_sender() {
    let program = Program::new("cat >FOLDER/mail.$$");
    let sender = program.sender(PATIENT);
    let received = async || {
        let files = std::fs::read_dir(program.folder.path()).unwrap();
        files
            .map(|file| std::fs::read(file.unwrap().path()).unwrap().into())
            .collect()
    };
    conforms(&subject(&sender, true), received).await;
}

fn smtp(peer: &SmtpPeer, limit: Duration) -> SmtpSender {
    let mut settings = SmtpSettings::new(peer.address.ip().to_string(), peer.address.port());
    settings.session.timeouts = SmtpTimeouts::all(limit);
    SmtpSender::new(settings)
}

#[tokio::test]
async fn the_smtp_sender_meets_the_requirements_of_a_sender() {
    let peer = SmtpPeer::agreeable().await;
    let sender = smtp(&peer, PATIENT);
    let received = async || peer.contents();
    conforms(&subject(&sender, false), received).await;
}

/// A server that accepts every mail, with every extension.
async fn capable() -> SmtpPeer {
    const OFFERS: &str = "250-peer.example\r\n250-PIPELINING\r\n250-SIZE 0\r\n250-DSN\r\n\
                          250-8BITMIME\r\n250 SMTPUTF8";
    SmtpPeer::agreeable_except("EHLO", Act::Say(OFFERS)).await
}

/// Checks that no message has added a command of its own to ours. Its id is sent as ENVID if the
/// server offers that extension.
fn received_no_foreign_command(peer: &SmtpPeer) {
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
async fn the_smtp_sender_meets_the_requirements_of_a_sender_with_every_extension() {
    let peer = capable().await;
    let sender = smtp(&peer, PATIENT);
    let received = async || peer.contents();
    conforms(&subject(&sender, true), received).await;
    received_no_foreign_command(&peer);
}

fn mx(dns: &DnsServer, peer: &SmtpPeer, limit: Duration) -> MxSender {
    for domain in ["example.com", "xn--r8jz45g.example"] {
        dns.set_mx(domain, &[(10, "mx.example.com.")]);
    }
    dns.set_addresses("mx.example.com", &["127.0.0.1"]);
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
async fn the_mx_sender_meets_the_requirements_of_a_sender() {
    let (dns, peer) = (DnsServer::start().await, capable().await);
    let sender = mx(&dns, &peer, PATIENT);
    let received = async || peer.contents();
    conforms(&subject(&sender, true), received).await;
    received_no_foreign_command(&peer);
}

#[tokio::test]
async fn every_sender_returns_an_outcome_within_its_time_limit_if_the_server_hangs() {
    const SHORT: Duration = Duration::from_millis(200);
    let platform = Platform::start(|_| Action::NeverAnswer).await;
    let silent = SmtpPeer::start(|_| Act::Hang).await;
    let mute = SmtpPeer::agreeable_except(".", Act::Hang).await;
    let (dns, program) = (DnsServer::start().await, Program::new("sleep 60"));
    let silent_dns = DnsServer::start().await;
    let (by_http, by_command) = (http(&platform, SHORT), program.sender(SHORT));
    let (to_relay, to_host) = (
        [smtp(&silent, SHORT), smtp(&mute, SHORT)],
        mx(&dns, &mute, SHORT),
    );
    let without_dns = mx(&silent_dns, &mute, SHORT);
    silent_dns.set_behavior(Behavior::Silent);
    let senders: [(&str, &dyn Sender); 6] = [
        ("http", &by_http),
        ("command", &by_command),
        ("smtp, silent", &to_relay[0]),
        ("smtp, mute", &to_relay[1]),
        ("mx", &to_host),
        ("mx, no DNS", &without_dns),
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

/// Checks a sender whose output the test cannot read. All requirements are checked except those
/// about the bytes that are sent.
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

/// A sender to which the suite gives no content, so that it compares no bytes.
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
async fn the_log_sender_and_the_example_meet_the_requirements_of_a_sender_too() {
    conforms_without_bytes(&LogSender).await;
    conforms_without_bytes(&custom_sender::Printer).await;
    conforms_without_bytes(&MailSystem::default()).await;
}
