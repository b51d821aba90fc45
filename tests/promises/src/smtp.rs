//! The smtp sender turns whatever a relay does into one outcome, and never uses a connection again
//! that could lie.

use std::sync::Arc;
use std::time::Duration;

use domain::address::Address;
use domain::outcome::{FaultKind, Outcome, Side};
use harness::bounce::{FULL, UNKNOWN};
use harness::smtp::{Act, SmtpPeer, agree};
use policy::row::Class;
use policy::table::Table;
use senders::attempt::Attempt;
use senders::sender::Sender;
use senders::settings::session::SmtpTimeouts;
use senders::settings::smtp::SmtpSettings;
use senders::smtp::SmtpSender;

mod encrypted;
mod hostile;
mod jobs;
mod limits;
mod sessions;

const PATIENT: Duration = Duration::from_secs(30);

fn sender(peer: &SmtpPeer, timeout: Duration) -> SmtpSender {
    let mut settings = SmtpSettings::new(peer.address.ip().to_string(), peer.address.port());
    settings.session.helo = "tests.example".to_owned();
    settings.session.connections = 2;
    settings.session.timeouts = SmtpTimeouts::all(timeout);
    SmtpSender::new(settings)
}

pub(crate) fn mail(message: &str) -> Attempt {
    Attempt {
        envelope_from: Some(Address::parse("bounce@news.example.org").expect("it is one")),
        content: Some("Subject: hello\r\n\r\n.\r\nbye\r\n".into()),
        ..Attempt::first(
            Address::parse("jo@example.com").expect("it is one"),
            message,
        )
    }
}

#[tokio::test]
async fn mail_is_handed_over_in_the_order_of_rfc_5321() {
    let peer = SmtpPeer::agreeable().await;
    let Outcome::Accepted(reply) = sender(&peer, PATIENT).send(&mail("m1")).await else {
        panic!("it was taken")
    };
    assert_eq!(reply.code, Some(250));
    let commands: Vec<String> = peer
        .received()
        .into_iter()
        .map(|received| received.command)
        .collect();
    assert_eq!(
        commands,
        [
            "",
            "EHLO tests.example",
            "MAIL FROM:<bounce@news.example.org>",
            "RCPT TO:<jo@example.com>",
            "DATA",
            // A line of the content that is a dot alone does not end it.
            "."
        ]
    );
}

#[tokio::test]
async fn what_the_relay_says_about_a_message_is_the_outcome_with_its_status() {
    for (command, says, refused, noted) in [
        ("MAIL", FULL, false, " (in reply to MAIL FROM command)"),
        ("RCPT", FULL, false, " (in reply to RCPT TO command)"),
        ("DATA", FULL, false, ""),
        (".", FULL, false, " (in reply to end of DATA command)"),
        ("RCPT", UNKNOWN, true, " (in reply to RCPT TO command)"),
    ] {
        let peer = SmtpPeer::start(move |received| {
            if received.command.starts_with(command) {
                Act::Say(says)
            } else {
                agree(&received.command)
            }
        })
        .await;
        let outcome = sender(&peer, PATIENT).send(&mail("m1")).await;
        let (Outcome::Deferred(reply) | Outcome::Refused(reply)) = &outcome else {
            panic!("{command}: {outcome:?}")
        };
        assert_eq!(reply.to_string(), format!("{says}{noted}"), "{command}");
        assert_eq!(matches!(outcome, Outcome::Refused(_)), refused, "{command}");
    }
}

#[tokio::test]
async fn a_name_that_is_unknown_retires_the_recipient_only_where_the_recipient_was_named() {
    for (command, says, dead) in [
        ("MAIL", "550 <bounce@news.example.org>: User unknown", false),
        (
            "MAIL",
            "550 5.1.0 <bounce@news.example.org> does not exist",
            false,
        ),
        ("MAIL", "550 5.1.1 no such user", false),
        ("RCPT", "550 5.7.1 user unknown", true),
        (".", "550 5.7.1 user unknown", false),
    ] {
        let peer = SmtpPeer::start(
            move |received| match received.command.starts_with(command) {
                true => Act::Say(says),
                false => agree(&received.command),
            },
        )
        .await;
        let outcome = sender(&peer, PATIENT).send(&mail("m1")).await;
        let Outcome::Refused(reply) = &outcome else {
            panic!("{command}: {outcome:?}")
        };
        let class = Table::embedded().row(reply, "", None, "").class();
        assert_eq!(class == Class::Hard, dead, "{command}: {reply}");
    }
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_yes_and_after_a_no() {
    let peer = SmtpPeer::start(|received| match received.command.as_str() {
        "RCPT TO:<jo@example.com>" => Act::Say(FULL),
        command => agree(command),
    })
    .await;
    let sender = sender(&peer, PATIENT);
    let to_sam = Attempt {
        recipient: Address::parse("sam@example.com").unwrap(),
        ..mail("m1")
    };
    for _ in 0..2 {
        assert!(matches!(sender.send(&to_sam).await, Outcome::Accepted(_)));
        assert!(matches!(
            sender.send(&mail("m2")).await,
            Outcome::Deferred(_)
        ));
    }
    assert_eq!(peer.connections_of("MAIL"), [1; 4]);
}

#[tokio::test]
async fn a_kept_connection_that_the_relay_closed_is_replaced_and_the_message_goes_out() {
    // A relay that times a connection out may say so on its way (RFC 5321, section 3.8).
    for farewell in [None, Some("421 4.4.2 idle for too long")] {
        let peer = SmtpPeer::start(move |received| {
            match (received.command.as_str(), received.connection, farewell) {
                ("MAIL FROM:<>", 1, None) => Act::Close,
                ("MAIL FROM:<>", 1, Some(farewell)) => Act::SayAndClose(farewell),
                (command, ..) => agree(command),
            }
        })
        .await;
        let sender = sender(&peer, PATIENT);
        assert!(matches!(
            sender.send(&mail("m1")).await,
            Outcome::Accepted(_)
        ));
        let second = Attempt {
            envelope_from: None,
            ..mail("m2")
        };
        let outcome = sender.send(&second).await;
        assert!(
            matches!(outcome, Outcome::Accepted(_)),
            "{farewell:?}: {outcome:?}"
        );
        assert_eq!(peer.connections_of("MAIL"), [1, 1, 2]);
    }
}

#[tokio::test]
async fn a_relay_that_hangs_is_left_within_the_timeout_and_counts_against_nobody() {
    for command in ["", "EHLO", "MAIL", "RCPT", "DATA"] {
        let peer = SmtpPeer::start(move |received| {
            let hangs = received.command.starts_with(command)
                && (!command.is_empty() || received.command.is_empty());
            if hangs {
                Act::Hang
            } else {
                agree(&received.command)
            }
        })
        .await;
        let outcome = sender(&peer, Duration::from_millis(100))
            .send(&mail("m1"))
            .await;
        let Outcome::Unreachable(fault) = outcome else {
            panic!("{command:?}: {outcome:?}")
        };
        assert_eq!(
            (fault.kind, fault.side),
            (FaultKind::Lost, Side::Ours),
            "{command:?}"
        );
    }
}

#[tokio::test]
async fn a_message_that_was_sent_whole_and_not_answered_may_have_been_taken() {
    let peer = SmtpPeer::start(|received| {
        if received.command == "." {
            Act::Close
        } else {
            agree(&received.command)
        }
    })
    .await;
    let outcome = sender(&peer, PATIENT).send(&mail("m1")).await;
    let Outcome::Unreachable(fault) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(fault.kind, FaultKind::Unanswered);
    assert_eq!(
        peer.connections_of("."),
        [1],
        "it is not sent again by the same attempt"
    );
}

#[tokio::test]
async fn a_relay_that_is_down_or_turns_us_away_counts_against_nobody() {
    let turned_away = SmtpPeer::start(|_| Act::SayAndClose("554 5.7.1 not you")).await;
    let gone = SmtpPeer::agreeable().await;
    let nobody = sender(&gone, PATIENT);
    drop(gone);
    for sender in [sender(&turned_away, PATIENT), nobody] {
        let Outcome::Unreachable(fault) = sender.send(&mail("m1")).await else {
            panic!("nothing was sent")
        };
        assert_eq!(
            (fault.kind, fault.side),
            (FaultKind::Connect, Side::Ours),
            "{fault}"
        );
    }
}

#[tokio::test]
async fn a_relay_that_closes_before_the_content_is_out_counts_against_nobody() {
    const CLOSING: &str = "421 4.3.2 closing down";
    for (command, ours) in [("MAIL", true), ("RCPT", true), ("DATA", true), (".", false)] {
        let peer = SmtpPeer::start(
            move |received| match received.command.starts_with(command) {
                true => Act::SayAndClose(CLOSING),
                false => agree(&received.command),
            },
        )
        .await;
        match sender(&peer, PATIENT).send(&mail("m1")).await {
            Outcome::Unreachable(fault) if ours => {
                assert_eq!(
                    (fault.kind, fault.side),
                    (FaultKind::Connect, Side::Ours),
                    "{command}: {fault}"
                );
                assert!(fault.text.contains("421 4.3.2"), "{command}: {fault}");
            }
            // It has read the message, and says what it thinks of it.
            Outcome::Deferred(reply) if !ours => assert_eq!(reply.code, Some(421), "{command}"),
            other => panic!("{command}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_connection_whose_attempt_was_cut_off_is_not_used_again() {
    let peer = SmtpPeer::start(
        |received| match (received.command.as_str(), received.connection) {
            ("DATA", 1) => Act::Hang,
            (command, _) => agree(command),
        },
    )
    .await;
    let sender = Arc::new(sender(&peer, PATIENT));
    let cut_off = tokio::spawn({
        let sender = sender.clone();
        async move { sender.send(&mail("m1")).await }
    });
    peer.has_heard("DATA", 1).await;
    cut_off.abort();
    assert!(cut_off.await.unwrap_err().is_cancelled());
    assert!(matches!(
        sender.send(&mail("m2")).await,
        Outcome::Accepted(_)
    ));
    assert_eq!(peer.connections_of("MAIL"), [1, 2]);
}
