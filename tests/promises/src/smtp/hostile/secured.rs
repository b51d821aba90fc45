//! If TLS or a login is required and fails, no mail is sent, and the failure counts against no
//! address.

use std::fs;
use std::time::Duration;

use domain::outcome::{Outcome, Side};
use futures::future::join_all;
use harness::certificates::Certificates;
use harness::smtp::{Act, SmtpPeer, agree};
use senders::sender::Sender;
use senders::settings::session::{SmtpTimeouts, TlsMode};
use senders::settings::smtp::SmtpLogin;
use senders::smtp::SmtpSender;
use tokio::time::timeout;

use super::super::mail;
use super::{LIMIT, failures, impatient};

/// What a peer may do instead of the handshake, besides all possible replies to STARTTLS.
const NO_HANDSHAKES: [Act; 4] = [
    Act::Say("220 go on, and no TLS after it"),
    Act::ReplyAndClose("220 go on"),
    Act::Begin("220 go on\r\n"),
    Act::Begin("220 go on\r\n250 and on"),
];

/// The outcome with a peer that does this at this command, and whether the peer received a message.
async fn sent(command: &'static str, act: Act, tls: TlsMode) -> (Outcome, bool) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let files = Certificates::make(folder.path());
    let script = move |received: &harness::smtp::Received| match received
        .command
        .split(' ')
        .next()
        .unwrap_or_default()
    {
        now if now == command => act,
        "EHLO" => Act::Say("250-peer.example\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250 8BITMIME"),
        _ => agree(&received.command),
    };
    let peer = SmtpPeer::start_at(([127, 0, 0, 1], 0).into(), Some(files.acceptor()), script).await;
    let mut settings = impatient(&peer);
    settings.tls = tls;
    settings.login = Some(SmtpLogin {
        username: "ann".to_owned(),
        password: "geheim".to_owned(),
    });
    settings.session.certificates.authority =
        Some(fs::read(&files.authority).expect("the file was written"));
    let most = 2 * SmtpTimeouts::all(LIMIT).whole() + Duration::from_secs(10);
    let outcome = timeout(most, SmtpSender::new(settings).send(&mail("m1"))).await;
    let outcome = outcome.unwrap_or_else(|_| panic!("{command}, {act:?}: no outcome in time"));
    (outcome, !peer.connections_of("MAIL").is_empty())
}

#[tokio::test]
async fn if_a_login_or_required_tls_fails_in_any_way_no_mail_is_sent() {
    let acts = || failures().into_iter().map(|(act, ..)| act);
    let cases = acts().map(|act| ("AUTH", act, TlsMode::None));
    let cases = cases.chain(
        acts()
            .chain(NO_HANDSHAKES)
            .map(|act| ("STARTTLS", act, TlsMode::Required)),
    );
    join_all(cases.map(async |(command, act, tls)| {
        let what = format!("{command}, {:.80}", format!("{act:?}"));
        let (outcome, got_mail) = sent(command, act, tls).await;
        let Outcome::Unreachable(fault) = outcome else {
            panic!("{what}: {outcome:?}")
        };
        assert_eq!(
            (fault.side, got_mail),
            (Side::Ours, false),
            "{what}: {fault}"
        );
        assert!(!fault.text.contains("geheim"), "{what}");
    }))
    .await;
}

#[tokio::test]
async fn if_opportunistic_tls_fails_in_any_way_mail_is_sent_in_the_clear() {
    // After a reply that refuses TLS the same connection is used. If the peer closes it then, it is
    // lost.
    let acts = failures()
        .into_iter()
        .map(|(act, ..)| act)
        .filter(|act| !matches!(act, Act::ReplyAndClose(_)));
    let acts = acts.chain(NO_HANDSHAKES);
    join_all(acts.map(async |act| {
        let (outcome, _) = sent("STARTTLS", act, TlsMode::Opportunistic).await;
        assert!(
            matches!(outcome, Outcome::Accepted(_)),
            "{:.80}: {outcome:?}",
            format!("{act:?}")
        );
    }))
    .await;
}
