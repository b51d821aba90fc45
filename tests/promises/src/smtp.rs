//! The `smtp` sender turns every reaction of a relay into exactly one outcome, and never reuses a
//! connection in an uncertain state.

use std::sync::Arc;
use std::time::Duration;

use domain::address::Address;
use domain::outcome::{Fault, FaultKind, Outcome, Side};
use harness::bounce::{FULL, UNKNOWN};
use harness::smtp::{Act, SmtpPeer, agree};
use harness::wait::eventually;
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
        envelope_from: Some(
            Address::parse("bounce@news.example.org").expect("the text is an address"),
        ),
        content: Some("Subject: hello\r\n\r\n.\r\nbye\r\n".into()),
        ..Attempt::first(
            Address::parse("jo@example.com").expect("the text is an address"),
            message,
        )
    }
}

/// The fault on our side that is this outcome. Any other outcome fails the test.
#[track_caller]
fn our_fault(outcome: Outcome, what: &str) -> Fault {
    match outcome {
        Outcome::Unreachable(fault) if fault.side == Side::Ours => fault,
        other => panic!("{what}: not a fault on our side: {other:?}"),
    }
}

#[tokio::test]
async fn mail_is_sent_with_the_commands_of_rfc_5321_in_order() {
    let peer = SmtpPeer::agreeable().await;
    let Outcome::Accepted(reply) = sender(&peer, PATIENT).send(&mail("m1")).await else {
        panic!("the relay accepted the mail")
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
            // A line of the content that is only a dot does not end the content.
            "."
        ]
    );
}

#[tokio::test]
async fn the_reply_of_a_relay_to_a_message_is_its_outcome() {
    for (command, reply_text, refused, noted) in [
        ("MAIL", FULL, false, " (in reply to MAIL FROM command)"),
        ("RCPT", FULL, false, " (in reply to RCPT TO command)"),
        ("DATA", FULL, false, ""),
        (".", FULL, false, " (in reply to end of DATA command)"),
        ("RCPT", UNKNOWN, true, " (in reply to RCPT TO command)"),
    ] {
        let peer = SmtpPeer::agreeable_except(command, Act::Say(reply_text)).await;
        let outcome = sender(&peer, PATIENT).send(&mail("m1")).await;
        let (Outcome::Deferred(reply) | Outcome::Refused(reply)) = &outcome else {
            panic!("{command}: {outcome:?}")
        };
        assert_eq!(
            reply.to_string(),
            format!("{reply_text}{noted}"),
            "{command}"
        );
        assert_eq!(matches!(outcome, Outcome::Refused(_)), refused, "{command}");
    }
}

#[tokio::test]
async fn the_last_line_of_a_reply_with_different_codes_is_its_outcome() {
    let mixed = Act::Say("250-2.1.5 jo\r\n552 5.2.2 mailbox full");
    let peer = SmtpPeer::agreeable_except("RCPT", mixed).await;
    let outcome = sender(&peer, PATIENT).send(&mail("m1")).await;
    let Outcome::Refused(reply) = &outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        reply.to_string(),
        "552 5.2.2 mailbox full (in reply to RCPT TO command)"
    );
    let table = Table::embedded();
    let row = table.row(reply, "", None, "");
    assert_eq!(row.end.as_str(), "unavailable", "{}", row.name);
}

#[tokio::test]
async fn an_unknown_user_reply_retires_the_recipient_only_in_answer_to_rcpt() {
    for (command, reply_text, dead) in [
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
        let peer = SmtpPeer::agreeable_except(command, Act::Say(reply_text)).await;
        let outcome = sender(&peer, PATIENT).send(&mail("m1")).await;
        let Outcome::Refused(reply) = &outcome else {
            panic!("{command}: {outcome:?}")
        };
        let class = Table::embedded().row(reply, "", None, "").class();
        assert_eq!(class == Class::Hard, dead, "{command}: {reply}");
    }
}

#[tokio::test]
async fn a_connection_is_reused_after_an_accepted_and_after_a_refused_message() {
    let peer = SmtpPeer::agreeable_except("RCPT TO:<jo@example.com>", Act::Say(FULL)).await;
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
async fn a_kept_connection_that_the_relay_closed_is_replaced_and_the_message_is_sent() {
    // A relay that closes an idle connection may send a reply before it does (RFC 5321, section
    // 3.8).
    for farewell in [None, Some("421 4.4.2 idle for too long")] {
        let peer = SmtpPeer::start(move |received| {
            match (received.command.as_str(), received.connection, farewell) {
                ("MAIL FROM:<>", 1, None) => Act::Close,
                ("MAIL FROM:<>", 1, Some(farewell)) => Act::ReplyAndClose(farewell),
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
async fn a_relay_that_hangs_is_left_within_the_timeout_and_counts_against_no_address() {
    for command in ["", "EHLO", "MAIL", "RCPT", "DATA"] {
        let peer = SmtpPeer::agreeable_except(command, Act::Hang).await;
        let sender = sender(&peer, Duration::from_millis(100));
        let fault = our_fault(sender.send(&mail("m1")).await, command);
        assert_eq!(fault.kind, FaultKind::Lost, "{command:?}");
    }
}

#[tokio::test]
async fn a_message_sent_completely_but_not_answered_counts_as_possibly_accepted() {
    let peer = SmtpPeer::agreeable_except(".", Act::Close).await;
    let outcome = sender(&peer, PATIENT).send(&mail("m1")).await;
    let Outcome::Unreachable(fault) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(fault.kind, FaultKind::Unanswered);
    assert_eq!(
        peer.connections_of("."),
        [1],
        "the same attempt does not send it again"
    );
}

#[tokio::test]
async fn a_relay_that_is_down_or_rejects_us_counts_against_no_address() {
    let rejecting = SmtpPeer::start(|_| Act::ReplyAndClose("554 5.7.1 not you")).await;
    let gone = SmtpPeer::agreeable().await;
    let (address, to_gone) = (gone.address, sender(&gone, PATIENT));
    drop(gone);
    eventually("the port to be closed", async || {
        std::net::TcpStream::connect(address).err()
    })
    .await;
    for (name, sender) in [
        ("rejects", sender(&rejecting, PATIENT)),
        ("is down", to_gone),
    ] {
        let fault = our_fault(sender.send(&mail("m1")).await, name);
        assert_eq!(fault.kind, FaultKind::Connect, "{name}: {fault}");
    }
}

#[tokio::test]
async fn a_relay_that_closes_before_the_content_is_sent_counts_against_no_address() {
    const CLOSING: &str = "421 4.3.2 closing down for user@example.com, try again in 20 minutes";
    for (command, ours) in [("MAIL", true), ("RCPT", true), ("DATA", true), (".", false)] {
        let peer = SmtpPeer::agreeable_except(command, Act::ReplyAndClose(CLOSING)).await;
        match sender(&peer, PATIENT).send(&mail("m1")).await {
            Outcome::Unreachable(fault) if ours => {
                assert_eq!(
                    (fault.kind, fault.side),
                    (FaultKind::Connect, Side::Ours),
                    "{command}: {fault}"
                );
                let text = "421 4.3.2 closing down for … try again in 20 minutes";
                assert!(fault.text.contains(text), "{command}: {fault}");
            }
            // The relay has read the message, so this is its reply to it.
            Outcome::Deferred(reply) if !ours => assert_eq!(reply.code, Some(421), "{command}"),
            other => panic!("{command}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_connection_whose_attempt_was_stopped_is_not_reused() {
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
    peer.wait_for_command("DATA", 1).await;
    cut_off.abort();
    assert!(cut_off.await.unwrap_err().is_cancelled());
    assert!(matches!(
        sender.send(&mail("m2")).await,
        Outcome::Accepted(_)
    ));
    assert_eq!(peer.connections_of("MAIL"), [1, 2]);
}
