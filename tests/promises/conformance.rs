//! Every sender keeps what the suite of the seam asks.

use std::time::Duration;

use bytes::Bytes;
use harness::mail::MailSystem;
use harness::platform::{Platform, Say};
use harness::smtp::SmtpPeer;
use shared::config::{SmtpSettings, SmtpTimeouts};
use worker::sender::conformance::{Subject, conforms};
use worker::sender::log::LogSender;
use worker::sender::smtp::SmtpSender;
use worker::sender::{Attempt, Sender};

use crate::senders::{PATIENT, Program, http};

#[tokio::test]
async fn http_conforms() {
    let platform = Platform::start(|_| Say::Answer(200, None, r#"{"outcome":"accepted"}"#.to_owned())).await;
    let sender = http(&platform, PATIENT);
    let received = async || {
        let decoded = platform.posted().into_iter().map(|posted| match posted.json["content"].as_str() {
            Some(text) => Bytes::from(text.to_owned()),
            None => Bytes::from(harness::platform::decoded(&posted.json["content_base64"])),
        });
        decoded.collect()
    };
    conforms(&Subject { sender: &sender, limit: PATIENT, takes_utf8: true }, received).await;
}

#[tokio::test]
async fn command_conforms() {
    let program = Program::new("cat >FOLDER/mail.$$");
    let sender = program.sender(PATIENT);
    let received = async || {
        let files = std::fs::read_dir(program.folder.path()).unwrap();
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap().into()).collect()
    };
    conforms(&Subject { sender: &sender, limit: PATIENT, takes_utf8: true }, received).await;
}

#[tokio::test]
async fn smtp_conforms() {
    let peer = SmtpPeer::agreeable().await;
    let mut settings = SmtpSettings::new(peer.address.ip().to_string(), peer.address.port());
    settings.session.timeouts = SmtpTimeouts::all(PATIENT);
    let sender = SmtpSender::new(settings);
    let received = async || peer.contents();
    conforms(&Subject { sender: &sender, limit: PATIENT, takes_utf8: false }, received).await;
}

/// A sender that is no use for bytes: the suite looks at everything else.
async fn conforms_without_bytes(sender: &dyn Sender) {
    let wanted = Unsent(sender);
    conforms(&Subject { sender: &wanted, limit: Duration::from_secs(1), takes_utf8: true }, async || Vec::new()).await;
}

struct Unsent<'a>(&'a dyn Sender);

#[async_trait::async_trait]
impl Sender for Unsent<'_> {
    async fn send(&self, attempt: &Attempt) -> shared::outcome::Outcome {
        self.0.send(attempt).await
    }

    fn wants_content(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn log_and_the_tests_own_mail_system_conform() {
    conforms_without_bytes(&LogSender).await;
    conforms_without_bytes(&MailSystem::default()).await;
}
