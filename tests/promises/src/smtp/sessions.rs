//! SMTP connections are reused for a limited number of messages and a limited time. They identify
//! us by login if configured, and are closed with QUIT.

use std::time::Duration;

use domain::outcome::{FaultKind, Outcome};
use domain::transcript::{Phase, Transcript};
use harness::smtp::{Act, SmtpPeer, agree};
use senders::attempt::Attempt;
use senders::sender::Sender;
use senders::settings::smtp::{SmtpLogin, SmtpSettings};
use senders::smtp::SmtpSender;

use super::{mail, our_fault};

fn settings(peer: &SmtpPeer) -> SmtpSettings {
    SmtpSettings::new(peer.address.ip().to_string(), peer.address.port())
}

#[tokio::test]
async fn a_connection_carries_a_limited_number_of_messages_and_is_closed_with_quit() {
    let peer = SmtpPeer::agreeable().await;
    let mut settings = settings(&peer);
    settings.session.messages_max = 2;
    let sender = SmtpSender::new(settings);
    for _ in 0..5 {
        assert!(matches!(
            sender.send(&mail("m1")).await,
            Outcome::Accepted(_)
        ));
    }
    assert_eq!(peer.connections_of("MAIL"), [1, 1, 2, 2, 3]);
    peer.wait_for_command("QUIT", 2).await;
}

#[tokio::test]
async fn a_connection_that_is_too_old_is_not_reused() {
    let peer = SmtpPeer::agreeable().await;
    let mut settings = settings(&peer);
    settings.session.age_max = Duration::ZERO;
    let sender = SmtpSender::new(settings);
    for _ in 0..2 {
        sender.send(&mail("m1")).await;
    }
    assert_eq!(peer.connections_of("MAIL"), [1, 2]);
}

#[tokio::test]
async fn a_server_that_has_closed_every_kept_connection_still_gets_the_message() {
    // The server closes each kept connection at the next message, which has no return path.
    let peer = SmtpPeer::start(
        |received| match (received.command.as_str(), received.connection) {
            ("MAIL FROM:<>", 1..=4) => Act::Close,
            (command, _) => agree(command),
        },
    )
    .await;
    let mut settings = settings(&peer);
    settings.session.connections = 4;
    let sender = SmtpSender::new(settings);
    let (first, second) = (mail("m1"), mail("m2"));
    let (a, b, c, d) = tokio::join!(
        sender.send(&first),
        sender.send(&second),
        sender.send(&first),
        sender.send(&second)
    );
    assert!(
        [a, b, c, d]
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Accepted(_)))
    );
    let without_sender = Attempt {
        envelope_from: None,
        ..mail("m3")
    };
    assert!(matches!(
        sender.send(&without_sender).await,
        Outcome::Accepted(_)
    ));
}

#[tokio::test]
async fn the_login_uses_the_plain_or_login_mechanism() {
    for (offer, commands) in [
        (
            "250-peer.example\r\n250 AUTH LOGIN PLAIN",
            vec!["AUTH PLAIN AGFubgBnZWhlaW0="],
        ),
        (
            "250-peer.example\r\n250 AUTH LOGIN",
            vec!["AUTH LOGIN", "YW5u", "Z2VoZWlt"],
        ),
    ] {
        let last = *commands.last().expect("there is a command");
        let peer = SmtpPeer::start(move |received| match received.command.as_str() {
            command if command.starts_with("EHLO") => Act::Say(offer),
            command if command == last => Act::Say("235 2.7.0 welcome"),
            "AUTH LOGIN" | "YW5u" => Act::Say("334 Z28gb24="),
            command => agree(command),
        })
        .await;
        let mut settings = settings(&peer);
        settings.login = Some(SmtpLogin {
            username: "ann".to_owned(),
            password: "geheim".to_owned(),
        });
        let sent = SmtpSender::new(settings).send(&mail("m1")).await;
        assert!(matches!(sent, Outcome::Accepted(_)), "{offer}: {sent:?}");
        let received: Vec<_> = peer
            .received()
            .into_iter()
            .map(|received| received.command)
            .collect();
        assert_eq!(&received[2..2 + commands.len()], commands, "{offer}");
    }
}

#[tokio::test]
async fn a_relay_that_rejects_our_login_counts_against_no_address() {
    let peer =
        SmtpPeer::start(
            |received| match received.command.split(' ').next().unwrap_or_default() {
                "EHLO" => Act::Say("250-peer.example\r\n250 AUTH PLAIN"),
                "AUTH" => Act::Say("535 5.7.8 who are you"),
                _ => agree(&received.command),
            },
        )
        .await;
    let mut settings = settings(&peer);
    settings.login = Some(SmtpLogin {
        username: "ann".to_owned(),
        password: "geheim".to_owned(),
    });
    let sent = SmtpSender::new(settings).send(&mail("m1")).await;
    let fault = our_fault(sent, "the login was rejected");
    assert_eq!(fault.kind, FaultKind::Connect);
    assert!(
        fault.text.contains("535 5.7.8") && !fault.text.contains("geheim"),
        "{fault}"
    );
}

#[tokio::test]
async fn the_wait_for_a_connection_is_a_phase_of_its_own_and_not_part_of_connecting() {
    // The only connection is busy with the first message for more than a second.
    let peer = SmtpPeer::agreeable_except(".", Act::Drip("250 2.0.0 ok", 100)).await;
    let mut settings = settings(&peer);
    settings.session.connections = 1;
    let sender = SmtpSender::new(settings);
    let (first, second) = (mail("m1"), mail("m2"));
    let sent = tokio::join!(sender.send_traced(&first), sender.send_traced(&second));
    let of = |sent: (Outcome, Option<Transcript>), phase: Phase| {
        let transcript = sent.1.expect("there was a conversation");
        let phases = transcript.took_ms.into_iter();
        phases
            .filter(|(one, _)| *one == phase)
            .map(|(_, ms)| ms)
            .reduce(|sum, ms| sum + ms)
    };
    let first = sent.0.1.clone().expect("there was a conversation");
    for (phase, _) in &first.took_ms {
        let same = first.took_ms.iter().filter(|(one, _)| one == phase);
        assert_eq!(same.count(), 1, "each phase is listed once: {first:?}");
    }
    assert!(of(sent.0.clone(), Phase::Connect).is_some());
    assert!(of(sent.0, Phase::Wait).unwrap_or_default() < 500);
    assert_eq!(of(sent.1.clone(), Phase::Connect), None, "it was reused");
    assert!(of(sent.1, Phase::Wait).expect("it waited") > 800);
}

#[tokio::test]
async fn an_attempt_that_gets_no_connection_ends_while_it_waits() {
    let peer = SmtpPeer::agreeable_except(".", Act::Hang).await;
    let mut settings = settings(&peer);
    settings.session.connections = 1;
    settings.session.timeouts.wait = Duration::from_millis(200);
    let sender = SmtpSender::new(settings);
    let (first, second) = (mail("m1"), mail("m2"));
    let waiting = async {
        peer.wait_for_command(".", 1).await;
        sender.send_traced(&second).await
    };
    let (outcome, transcript) = tokio::select! {
        _ = sender.send(&first) => panic!("the peer does not answer"),
        waited = waiting => waited,
    };
    let fault = our_fault(outcome, "no connection is free");
    assert_eq!(fault.kind, FaultKind::Local);
    let transcript = transcript.expect("there is one for each attempt");
    assert_eq!(transcript.phase, Phase::Wait);
    assert!(transcript.waited() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_server_without_ehlo_is_greeted_with_helo() {
    let peer = SmtpPeer::agreeable_except("EHLO", Act::Say("502 5.5.1 what")).await;
    let sent = SmtpSender::new(settings(&peer)).send(&mail("m1")).await;
    assert!(matches!(sent, Outcome::Accepted(_)), "{sent:?}");
    assert_eq!(peer.connections_of("HELO"), [1]);
}

#[tokio::test]
async fn the_words_of_a_server_that_refuses_the_connection_are_in_the_fault() {
    const REFUSAL: &str = "550 5.7.1 your name has no PTR record";
    const LISTED: &str = "220-mx.example.com ESMTP\r\n521 5.7.1 your address is listed";
    for (command, act, words) in [
        (
            "",
            Act::ReplyAndClose("554 5.7.1 no mail from there"),
            "554 5.7.1 no mail from there",
        ),
        (
            "",
            Act::ReplyAndClose(LISTED),
            "521 5.7.1 your address is listed",
        ),
        ("EHLO", Act::ReplyAndClose(REFUSAL), REFUSAL),
        ("EHLO", Act::Say(REFUSAL), REFUSAL),
        // It closes the connection when HELO comes.
        (
            "EHLO",
            Act::ReplyAndClose("500 5.7.1 go away"),
            "500 5.7.1 go away",
        ),
    ] {
        let peer = SmtpPeer::agreeable_except(command, act).await;
        let sent = SmtpSender::new(settings(&peer)).send(&mail("m1")).await;
        let fault = our_fault(sent, words);
        assert_eq!(fault.kind, FaultKind::Connect, "{words}: {fault}");
        assert!(fault.text.contains(words), "{words}: {fault}");
    }
}

#[tokio::test]
async fn the_extensions_that_the_server_offers_are_used() {
    const OFFERS: &str = "250-peer.example\r\n250-SIZE 1000\r\n250-DSN\r\n250-PIPELINING\r\n\
                          250-8BITMIME\r\n250 SMTPUTF8";
    let peer = SmtpPeer::agreeable_except("EHLO", Act::Say(OFFERS)).await;
    let sender = SmtpSender::new(settings(&peer));
    let umlaut = Attempt {
        content: Some("A: b\r\n\r\nü\r\n".into()),
        ..mail("m1")
    };
    assert!(matches!(sender.send(&umlaut).await, Outcome::Accepted(_)));
    let received: Vec<_> = peer
        .received()
        .into_iter()
        .map(|received| received.command)
        .collect();
    assert_eq!(
        received[2],
        "MAIL FROM:<bounce@news.example.org> SIZE=12 BODY=8BITMIME RET=HDRS ENVID=m1"
    );
    assert_eq!(
        received[3],
        "RCPT TO:<jo@example.com> NOTIFY=FAILURE ORCPT=rfc822;jo@example.com"
    );

    let large = Attempt {
        content: Some("x\r\n".repeat(400).into()),
        ..mail("m2")
    };
    let Outcome::Refused(reply) = sender.send(&large).await else {
        panic!("the message is too large")
    };
    assert_eq!(reply.status, Some("5.3.4".parse().unwrap()));
    assert_eq!(
        peer.connections_of("MAIL"),
        [1],
        "the message is not even offered"
    );
}

/// A limit that a test waits for, and one that it never reaches.
const SHORT: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_secs(4);

/// The settings for a single connection to a relay, with a short wait for it.
fn single_connection(peer: &SmtpPeer) -> SmtpSettings {
    let mut settings = settings(peer);
    settings.session.connections = 1;
    settings.session.timeouts.wait = SHORT;
    settings
}

#[tokio::test]
async fn an_attempt_that_finds_no_free_connection_is_held_soon_however_long_the_others_take() {
    let peer = SmtpPeer::agreeable_except("DATA", Act::Hang).await;
    let sender = SmtpSender::new(single_connection(&peer));
    let first = mail("m1");
    tokio::select! {
        outcome = sender.send(&first) => panic!("the relay does not answer: {outcome:?}"),
        outcome = async {
            peer.wait_for_command("DATA", 1).await;
            tokio::time::timeout(SOON,
                sender.send(&mail("m2"))).await.expect("the wait has its own limit")
        } => {
            let fault = our_fault(outcome, "no connection is free");
            assert_eq!(fault.kind, FaultKind::Local, "{fault}");
        }
    }
    assert_eq!(peer.connections_of("EHLO"), [1]);
}

#[tokio::test]
async fn a_connection_counts_until_its_quit_is_finished() {
    let peer = SmtpPeer::agreeable_except("QUIT", Act::Hang).await;
    let mut settings = single_connection(&peer);
    settings.session.messages_max = 1;
    let sender = SmtpSender::new(settings);
    assert!(matches!(
        sender.send(&mail("m1")).await,
        Outcome::Accepted(_)
    ));
    let fault = our_fault(sender.send(&mail("m2")).await, "no connection is free");
    assert_eq!(fault.kind, FaultKind::Local, "{fault}");
    assert_eq!(peer.connections_of("EHLO"), [1]);
}

#[tokio::test]
async fn a_refusal_is_returned_before_the_connection_is_ready_for_the_next_message() {
    let peer = SmtpPeer::start(|received| match received.command.as_str() {
        command if command.starts_with("RCPT") => Act::Say("450 4.2.1 disabled"),
        "RSET" => Act::Hang,
        command => agree(command),
    })
    .await;
    let sender = SmtpSender::new(settings(&peer));
    let outcome = tokio::time::timeout(SOON, sender.send(&mail("m1"))).await;
    assert!(
        matches!(outcome, Ok(Outcome::Deferred(_))),
        "the outcome comes first: {outcome:?}"
    );
}
