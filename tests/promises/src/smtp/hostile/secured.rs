//! The same where TLS or a login is wanted: nothing is sent to a peer that does not come to either,
//! and it counts against nobody.

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

/// What a peer may make of the handshake, beside all that it may say to STARTTLS.
const NO_HANDSHAKES: [Act; 4] = [
    Act::Say("220 go on, and no TLS after it"),
    Act::SayAndClose("220 go on"),
    Act::Begin("220 go on\r\n"),
    Act::Begin("220 go on\r\n250 and on"),
];

/// What comes of a peer that does this at this command, and whether it was told of the message.
async fn sent(command: &'static str, act: Act, tls: TlsMode) -> (Outcome, bool) {
    let folder = tempfile::tempdir().expect("there is room");
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
        Some(fs::read(&files.authority).expect("it was made"));
    let most = 2 * SmtpTimeouts::all(LIMIT).whole() + Duration::from_secs(10);
    let outcome = timeout(most, SmtpSender::new(settings).send(&mail("m1"))).await;
    let outcome = outcome.unwrap_or_else(|_| panic!("{command}, {act:?}: no outcome in time"));
    (outcome, !peer.connections_of("MAIL").is_empty())
}

#[tokio::test]
async fn a_login_or_tls_that_is_wanted_may_fail_in_every_way_and_nothing_is_sent() {
    let acts = || failures().into_iter().map(|(act, ..)| act);
    let cases = acts().map(|act| ("AUTH", act, TlsMode::None));
    let cases = cases.chain(
        acts()
            .chain(NO_HANDSHAKES)
            .map(|act| ("STARTTLS", act, TlsMode::Required)),
    );
    join_all(cases.map(async |(command, act, tls)| {
        let what = format!("{command}, {:.80}", format!("{act:?}"));
        let (outcome, was_told) = sent(command, act, tls).await;
        let Outcome::Unreachable(fault) = outcome else {
            panic!("{what}: {outcome:?}")
        };
        assert_eq!(
            (fault.side, was_told),
            (Side::Ours, false),
            "{what}: {fault}"
        );
        assert!(!fault.text.contains("geheim"), "{what}");
    }))
    .await;
}

#[tokio::test]
async fn tls_that_is_taken_as_it_comes_may_fail_in_every_way_and_mail_goes_in_the_clear() {
    // Whoever says no in so many words is spoken to further, on the same connection: one that is
    // closed then is lost.
    let acts = failures()
        .into_iter()
        .map(|(act, ..)| act)
        .filter(|act| !matches!(act, Act::SayAndClose(_)));
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
