//! A real Postfix works as the relay.

use domain::address::Address;
use domain::outcome::{FaultKind, Outcome, Side};
use harness::postfix::{Postfix, Settings};
use harness::sasl::Logins;
use harness::smtp::{Act, SmtpPeer};
use senders::attempt::Attempt;
use senders::sender::Sender;
use senders::settings::session::Notify;
use senders::settings::smtp::{SmtpLogin, SmtpSettings};
use senders::smtp::SmtpSender;

use super::{BODY, content, main_cf};

const OFFERS: &str = "250-peer.example\r\n250-SIZE\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN";

/// A Postfix that forwards all mail for example.com to the peer.
struct Relay {
    postfix: Postfix,
    next: SmtpPeer,
}

impl Relay {
    async fn start(settings: Settings) -> Self {
        let next = SmtpPeer::agreeable_except("EHLO", Act::Say(OFFERS)).await;
        let next_hop = format!("smtp:[{}]:{}", next.address.ip(), next.address.port());
        let transports = vec![("example.com".to_owned(), next_hop)];
        Self {
            postfix: Postfix::start(Settings {
                transports,
                ..settings
            })
            .await,
            next,
        }
    }

    fn settings(&self) -> SmtpSettings {
        let mut settings = SmtpSettings::new(
            self.postfix.address.ip().to_string(),
            self.postfix.address.port(),
        );
        settings.session.connections = 1;
        settings
    }

    fn sender(&self) -> SmtpSender {
        SmtpSender::new(self.settings())
    }

    /// Waits until Postfix has sent a command with this start to the next host. Returns the
    /// command.
    async fn passed_on(&self, command: &str) -> String {
        self.next.wait_for_command(command, 1).await;
        let received = self
            .next
            .received()
            .into_iter()
            .find(|received| received.command.starts_with(command));
        received.expect("the command was received").command
    }
}

fn mail(recipient: &str) -> Attempt {
    Attempt {
        envelope_from: Some(Address::parse("bounce@news.example.org").unwrap()),
        content: Some(content().into()),
        ..Attempt::first(
            Address::parse(recipient).unwrap(),
            "<m1+a=b@news.example.org>",
        )
    }
}

#[tokio::test]
async fn requested_delivery_reports_reach_the_next_host_and_the_content_is_not_changed() {
    let relay = Relay::start(Settings::default()).await;
    let mut settings = relay.settings();
    settings.session.notify = Notify {
        failure: true,
        success: true,
        ..Notify::default()
    };
    let (outcome, transcript) = SmtpSender::new(settings)
        .send_traced(&mail("jo+x@example.com"))
        .await;
    let Outcome::Accepted(reply) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        reply.to_string().starts_with("250 2.0.0 Ok: queued as "),
        "{reply}"
    );
    let transcript = transcript.expect("a connection was made");
    assert_eq!(
        (transcript.phase.as_str(), transcript.address),
        ("dot", relay.postfix.address.to_string())
    );

    let from = relay.passed_on("MAIL").await;
    assert!(
        from.contains(" ENVID=<m1+2Ba+3Db@news.example.org>") && from.contains(" RET=HDRS"),
        "{from}"
    );
    assert!(from.contains(" BODY=8BITMIME"), "{from}");
    let to = relay.passed_on("RCPT").await;
    assert!(
        to.contains(" NOTIFY=SUCCESS,FAILURE") && to.contains(" ORCPT=rfc822;jo+2Bx@example.com"),
        "{to}"
    );
    relay.postfix.wait_for_log("status=sent").await;
    let passed_on = relay.next.contents().remove(0);
    let passed_on = String::from_utf8(passed_on.to_vec()).unwrap();
    assert!(
        passed_on.ends_with(&format!("\r\n\r\n{BODY}")),
        "{passed_on}"
    );
    assert_eq!(
        passed_on
            .matches("Message-ID: <m1@news.example.org>")
            .count(),
        1,
        "{passed_on}"
    );
}

#[tokio::test]
async fn a_relay_gets_many_messages_over_one_connection() {
    let relay = Relay::start(Settings::default()).await;
    let sender = relay.sender();
    for _ in 0..5 {
        assert!(matches!(
            sender.send(&mail("jo@example.com")).await,
            Outcome::Accepted(_)
        ));
    }
    relay.next.wait_for_command(".", 5).await;
    let clients = relay
        .postfix
        .log()
        .lines()
        .filter(|line| line.contains(": client="))
        .count();
    let connects = relay
        .postfix
        .log()
        .lines()
        .filter(|line| line.contains(": connect from unknown[127.0.0.1]"))
        .count();
    // One more connection checked whether Postfix listens.
    assert_eq!((clients, connects), (5, 2), "{}", relay.postfix.log());
}

#[tokio::test]
async fn a_message_larger_than_the_relay_accepts_is_not_even_offered() {
    let relay = Relay::start(main_cf(&["message_size_limit = 4096"])).await;
    let sender = relay.sender();
    let large = Attempt {
        content: Some("x: y\r\n".repeat(1_000).into()),
        ..mail("jo@example.com")
    };
    let Outcome::Refused(reply) = sender.send(&large).await else {
        panic!("the message is too large")
    };
    assert_eq!(reply.status, Some("5.3.4".parse().unwrap()), "{reply}");
    assert!(
        !relay.postfix.log().contains("reject: MAIL"),
        "{}",
        relay.postfix.log()
    );
    assert!(
        matches!(
            sender.send(&mail("jo@example.com")).await,
            Outcome::Accepted(_)
        ),
        "the next message is small enough"
    );
    relay.next.wait_for_command(".", 1).await;
    assert_eq!(
        relay.postfix.log().matches(": client=").count(),
        1,
        "{}",
        relay.postfix.log()
    );
}

#[tokio::test]
async fn mail_to_an_internationalized_address_is_sent_only_to_a_relay_that_accepts_it() {
    for (enabled, is_accepted) in [
        ("smtputf8_enable = yes", true),
        ("smtputf8_enable = no", false),
    ] {
        let relay = Relay::start(main_cf(&[enabled])).await;
        match relay.sender().send(&mail("jö@example.com")).await {
            Outcome::Accepted(_) if is_accepted => {
                let to = relay.passed_on("RCPT").await;
                assert!(to.starts_with("RCPT TO:<jö@example.com>"), "{to}");
                assert!(relay.passed_on("MAIL").await.contains(" SMTPUTF8"));
            }
            Outcome::Refused(reply) if !is_accepted => {
                assert_eq!(reply.status, Some("5.6.7".parse().unwrap()));
            }
            other => panic!("{enabled}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_relay_that_requires_a_login_gets_ours_and_a_rejected_login_is_a_fault_on_our_side() {
    for mechanisms in [&["PLAIN", "LOGIN"][..], &["LOGIN"]] {
        let logins = Logins::start(mechanisms, "redeliver", "open sesame").await;
        let relay = Relay::start(Settings {
            main: logins.main_cf(),
            ..Settings::default()
        })
        .await;
        for (password, lets_in) in [("open sesame", true), ("guess", false)] {
            let login = SmtpLogin {
                username: "redeliver".to_owned(),
                password: password.to_owned(),
            };
            let settings = SmtpSettings {
                login: Some(login),
                ..relay.settings()
            };
            let outcome = SmtpSender::new(settings)
                .send(&mail("jo@example.com"))
                .await;
            match outcome {
                Outcome::Accepted(_) if lets_in => {}
                Outcome::Unreachable(fault) if !lets_in => {
                    assert_eq!(
                        (fault.kind, fault.side),
                        (FaultKind::Connect, Side::Ours),
                        "{fault}"
                    );
                    assert!(fault.text.contains("535 5.7.8"), "{fault}");
                }
                other => panic!(
                    "{mechanisms:?} {password}: {other:?}, {}",
                    relay.postfix.log()
                ),
            }
        }
    }
}
