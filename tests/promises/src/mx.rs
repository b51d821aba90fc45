//! The `mx` sender delivers to the mail hosts of the recipient's domain. It tries the next host if
//! one cannot be used, and never connects to any other server.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use domain::address::Address;
use domain::outcome::{FaultKind, Outcome, Side};
use harness::bounce::FULL;
use harness::certificates::Certificates;
use harness::dns::{Behavior, DnsServer};
use harness::smtp::{Act, Received, SmtpPeer, agree, agree_except};
use senders::attempt::Attempt;
use senders::in_doubt::InDoubt;
use senders::mx::MxSender;
use senders::sender::Sender;
use senders::settings::mx::MxSettings;
use senders::settings::session::{SmtpTimeouts, TlsMode};
use tokio_util::sync::CancellationToken;

use crate::smtp::mail;

fn accept_all(received: &Received) -> Act {
    agree(&received.command)
}

struct Internet {
    dns: DnsServer,
    /// Two hosts, `mx1.example.com` and `mx2.example.com`. They listen on the same port of
    /// different addresses.
    hosts: [SmtpPeer; 2],
}

impl Internet {
    /// Two hosts that follow these scripts.
    async fn new(
        first: impl Fn(&Received) -> Act + Send + Sync + 'static,
        second: impl Fn(&Received) -> Act + Send + Sync + 'static,
    ) -> Self {
        let dns = DnsServer::start().await;
        dns.set_mx(
            "example.com",
            &[(20, "mx2.example.com."), (10, "mx1.example.com.")],
        );
        dns.set_addresses("mx1.example.com", &["127.0.0.1"])
            .set_addresses("mx2.example.com", &["127.0.0.2"]);
        let first = SmtpPeer::start(first).await;
        let at = SocketAddr::new([127, 0, 0, 2].into(), first.address.port());
        let second = SmtpPeer::start_at(at, None, second).await;
        Self {
            dns,
            hosts: [first, second],
        }
    }

    /// Two hosts that accept everything.
    async fn agreeable() -> Self {
        Self::new(accept_all, accept_all).await
    }

    /// Two hosts. The first does `act` at `command`, and otherwise both accept everything.
    async fn with_first(command: &'static str, act: Act) -> Self {
        Self::new(agree_except(command, act), accept_all).await
    }

    fn settings(&self) -> MxSettings {
        let mut settings = MxSettings {
            port: self.hosts[0].address.port(),
            private_hosts: true,
            nameservers: vec![self.dns.address],
            lookup_timeout: Duration::from_secs(2),
            ..MxSettings::default()
        };
        settings.session.timeouts = SmtpTimeouts::all(Duration::from_secs(2));
        settings
    }

    fn sender(&self) -> MxSender {
        MxSender::new(self.settings())
    }

    /// How often content was sent to each host.
    fn sent(&self) -> [usize; 2] {
        [0, 1].map(|n| self.hosts[n].connections_of(".").len())
    }
}

fn to(recipient: &str) -> Attempt {
    Attempt {
        recipient: Address::parse(recipient).expect("the text is an address"),
        ..mail("m1")
    }
}

#[tokio::test]
async fn the_preferred_host_gets_the_mail_over_a_connection_that_is_kept() {
    let internet = Internet::agreeable().await;
    let sender = internet.sender();
    for _ in 0..3 {
        let (outcome, transcript) = sender.send_traced(&mail("m1")).await;
        assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
        assert_eq!(
            transcript.expect("a connection was made").host,
            "mx1.example.com"
        );
    }
    assert_eq!(internet.sent(), [3, 0]);
    assert_eq!(internet.hosts[0].connections_of("EHLO"), [1]);
    let asked = internet
        .dns
        .asked()
        .iter()
        .filter(|name| *name == "example.com")
        .count();
    assert_eq!(asked, 1, "the DNS is asked once while its answer is valid");
}

#[tokio::test]
async fn a_host_that_fails_is_skipped_but_its_reply_about_a_message_counts() {
    for (name, command, act) in [
        ("busy", "", Act::ReplyAndClose("421 4.3.2 busy")),
        ("unwilling", "", Act::Say("554 no mail here")),
        ("closing", "RCPT", Act::ReplyAndClose("421 4.4.2 closing")),
        ("lost", "DATA", Act::Reset),
    ] {
        let internet = Internet::with_first(command, act).await;
        let outcome = internet.sender().send(&mail("m1")).await;
        assert!(
            matches!(outcome, Outcome::Delivered(_)),
            "{name}: {outcome:?}"
        );
        assert_eq!(internet.sent(), [0, 1], "{name}");
    }
    let internet = Internet::with_first("RCPT", Act::Say(FULL)).await;
    assert!(matches!(
        internet.sender().send(&mail("m1")).await,
        Outcome::Deferred(_)
    ));
    assert_eq!(
        internet.hosts[1].received(),
        [],
        "the next host is not asked"
    );
}

#[tokio::test]
async fn if_every_host_fails_the_fault_is_on_their_side_and_one_of_their_replies_is_reported() {
    let busy = |_: &Received| Act::ReplyAndClose("421 4.3.2 busy");
    let gone = |_: &Received| Act::Close;
    let internet = Internet::new(busy, gone).await;
    let Outcome::Deferred(reply) = internet.sender().send(&mail("m1")).await else {
        panic!("a host replied")
    };
    assert_eq!(reply.to_string(), "421 4.3.2 busy");

    let unwilling = |_: &Received| Act::ReplyAndClose("554 5.7.1 not you");
    let internet = Internet::new(unwilling, gone).await;
    let Outcome::Unreachable(fault) = internet.sender().send(&mail("m1")).await else {
        panic!("no host accepted the mail")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Connect, Side::Theirs),
        "{fault}"
    );
}

#[tokio::test]
async fn a_host_is_not_at_fault_if_the_wait_for_its_answer_was_cancelled() {
    let internet = Internet::with_first(".", Act::Hang).await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let attempt = Attempt {
        in_doubt: InDoubt::cancelled_by(cancel),
        ..mail("m1")
    };
    let mut settings = internet.settings();
    settings.session.timeouts = SmtpTimeouts::all(Duration::from_secs(60));
    let Outcome::Unreachable(fault) = MxSender::new(settings).send(&attempt).await else {
        panic!("it is unknown whether the host accepted the mail")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Unanswered, Side::Ours)
    );
    assert_eq!(internet.sent(), [1, 0]);
}

#[tokio::test]
async fn a_message_that_may_have_been_accepted_is_not_sent_to_the_next_host() {
    let internet = Internet::with_first(".", Act::Close).await;
    let Outcome::Unreachable(fault) = internet.sender().send(&mail("m1")).await else {
        panic!("it is unknown whether the host accepted the mail")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Unanswered, Side::Theirs)
    );
    assert_eq!(internet.sent(), [1, 0]);
    // The same holds for a message that the host received completely and then deferred.
    let internet = Internet::with_first(".", Act::ReplyAndClose("421 4.3.0 later")).await;
    let Outcome::Deferred(reply) = internet.sender().send(&mail("m1")).await else {
        panic!("the host deferred the mail")
    };
    assert_eq!(
        (reply.status, internet.sent()),
        ("4.3.0".parse().ok(), [1, 0])
    );
}

#[tokio::test]
async fn each_kind_of_dns_failure_has_its_own_outcome() {
    let internet = Internet::agreeable().await;
    internet
        .dns
        .set_mx("null.example", &[(0, ".")])
        .set_mx("hollow.example", &[(10, "nowhere.example.")]);
    internet
        .dns
        .set_addresses("implicit.example", &["127.0.0.1"]);
    let sender = internet.sender();
    let Outcome::Refused(reply) = sender.send(&to("jo@null.example")).await else {
        panic!("the domain accepts no mail")
    };
    assert_eq!(
        reply.to_string(),
        "556 5.1.10 the recipient's domain takes no mail"
    );
    for (recipient, status) in [
        ("jo@missing.example", "4.1.2"),
        ("jo@hollow.example", "4.4.4"),
    ] {
        let Outcome::Deferred(reply) = sender.send(&to(recipient)).await else {
            panic!("{recipient}")
        };
        assert_eq!(reply.status, Some(status.parse().unwrap()), "{recipient}");
    }
    assert!(
        matches!(
            sender.send(&to("jo@implicit.example")).await,
            Outcome::Delivered(_)
        ),
        "RFC 5321, section 5.1"
    );
    assert!(
        matches!(
            sender.send(&to("jo@[127.0.0.1]")).await,
            Outcome::Delivered(_)
        ),
        "an address literal"
    );
    for (behavior, side) in [
        (Behavior::Failing, Side::Theirs),
        (Behavior::Silent, Side::Ours),
    ] {
        internet.dns.set_behavior(behavior);
        let recipient = format!("jo@{behavior:?}.example");
        let Outcome::Unreachable(fault) = sender.send(&to(&recipient)).await else {
            panic!("{behavior:?}")
        };
        assert_eq!(
            (fault.kind, fault.side),
            (FaultKind::Lookup, side),
            "{behavior:?}: {fault}"
        );
    }
}

#[tokio::test]
async fn the_sender_never_connects_to_private_addresses_unless_configured() {
    let internet = Internet::agreeable().await;
    let sender = MxSender::new(MxSettings {
        private_hosts: false,
        ..internet.settings()
    });
    for recipient in ["jo@example.com", "jo@[127.0.0.1]", "jo@[IPv6:::1]"] {
        let Outcome::Deferred(reply) = sender.send(&to(recipient)).await else {
            panic!("{recipient}")
        };
        assert_eq!(reply.status, Some("4.4.4".parse().unwrap()), "{recipient}");
    }
    assert!(internet.hosts.iter().all(|host| host.received().is_empty()));
}

#[tokio::test]
async fn a_failed_lookup_of_a_mail_host_is_a_fault_on_our_side_unless_another_host_answers() {
    let lookup_timeout = Duration::from_millis(300);
    let internet = Internet::new(accept_all, |_| Act::ReplyAndClose("421 4.3.2 busy")).await;
    internet
        .dns
        .never_answer("concealed.example")
        .set_addresses("dead.example", &["127.0.0.3"]);
    for (other, ours) in [
        // This host has no address: it does not exist.
        ("nowhere.example", true),
        // No server listens there.
        ("dead.example", true),
        ("mx2.example.com", false),
    ] {
        for (n, preferences) in [(1, [10, 20]), (2, [20, 10])] {
            let domain = format!("of{n}.{other}");
            let [first, second] = preferences;
            internet.dns.set_mx(
                &domain,
                &[
                    (first, "concealed.example."),
                    (second, &format!("{other}.")),
                ],
            );
            let sender = MxSender::new(MxSettings {
                lookup_timeout,
                ..internet.settings()
            });
            match sender.send(&to(&format!("jo@{domain}"))).await {
                Outcome::Unreachable(fault) if ours => {
                    assert_eq!(
                        (fault.kind, fault.side),
                        (FaultKind::Lookup, Side::Ours),
                        "{domain}: {fault}"
                    );
                }
                Outcome::Deferred(reply) if !ours => {
                    assert_eq!(reply.to_string(), "421 4.3.2 busy");
                }
                other => panic!("{domain}: {other:?}"),
            }
        }
    }
    internet.dns.set_mx(
        "lucky.example",
        &[(10, "concealed.example."), (20, "mx1.example.com.")],
    );
    let sender = MxSender::new(MxSettings {
        lookup_timeout,
        ..internet.settings()
    });
    assert!(matches!(
        sender.send(&to("jo@lucky.example")).await,
        Outcome::Delivered(_)
    ));
}

#[tokio::test]
async fn a_missing_source_address_of_the_required_ip_version_is_a_fault_on_our_side() {
    let internet = Internet::agreeable().await;
    let sender = |source: &str| {
        MxSender::new(MxSettings {
            sources: vec![source.parse().expect("the text is an address")],
            ..internet.settings()
        })
    };
    let Outcome::Unreachable(fault) = sender("::1").send(&mail("m1")).await else {
        panic!("no source address can reach the host")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Local, Side::Ours),
        "{fault}"
    );
    assert_eq!(internet.sent(), [0, 0]);
    // If another address can be tried and fails, that failure is the outcome.
    internet
        .dns
        .set_mx("both.example", &[(10, "both.example.")])
        .set_addresses("both.example", &["127.0.0.3", "::1"]);
    let Outcome::Unreachable(fault) = sender("127.0.0.1").send(&to("jo@both.example")).await else {
        panic!("no host is reachable")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Connect, Side::Theirs),
        "{fault}"
    );
}

#[tokio::test]
async fn mail_goes_by_ipv6_if_the_host_answers_by_ipv6_and_otherwise_by_ipv4() {
    let internet = Internet::agreeable().await;
    internet
        .dns
        .set_mx("both.example", &[(10, "both.example.")])
        .set_addresses("both.example", &["127.0.0.1", "::1"]);
    let sender = internet.sender();
    let (outcome, transcript) = sender.send_traced(&to("jo@both.example")).await;
    assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
    assert_eq!(
        transcript.expect("a connection was made").address,
        internet.hosts[0].address.to_string()
    );

    let six = SmtpPeer::start_at((Ipv6Addr::LOCALHOST, 0).into(), None, |received| {
        agree(&received.command)
    })
    .await;
    let sender = MxSender::new(MxSettings {
        port: six.address.port(),
        ..internet.settings()
    });
    for recipient in ["jo@both.example", "jo@[IPv6:::1]"] {
        let (outcome, transcript) = sender.send_traced(&to(recipient)).await;
        assert!(
            matches!(outcome, Outcome::Delivered(_)),
            "{recipient}: {outcome:?}"
        );
        assert_eq!(
            transcript.expect("a connection was made").address,
            six.address.to_string(),
            "{recipient}"
        );
    }
    assert_eq!(internet.sent(), [1, 0]);
}

#[tokio::test]
async fn required_tls_to_an_address_literal_needs_a_certificate_for_that_address() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let dns = DnsServer::start().await;
    for (name, at, recipient, holds) in [
        (
            "127.0.0.1",
            SocketAddr::from(([127, 0, 0, 1], 0)),
            "jo@[127.0.0.1]",
            true,
        ),
        (
            "::1",
            (Ipv6Addr::LOCALHOST, 0).into(),
            "jo@[IPv6:::1]",
            true,
        ),
        (
            "127.0.0.9",
            ([127, 0, 0, 1], 0).into(),
            "jo@[127.0.0.1]",
            false,
        ),
    ] {
        let files = Certificates::make_for(folder.path(), name);
        let script =
            |received: &Received| match received.command.split(' ').next().unwrap_or_default() {
                "EHLO" => Act::Say("250-peer.example\r\n250 STARTTLS"),
                "STARTTLS" => Act::Encrypt("220 go on"),
                _ => agree(&received.command),
            };
        let peer = SmtpPeer::start_at(at, Some(files.acceptor()), script).await;
        let mut settings = MxSettings {
            port: peer.address.port(),
            tls: TlsMode::Required,
            private_hosts: true,
            nameservers: vec![dns.address],
            ..MxSettings::default()
        };
        settings.session.certificates.authority =
            Some(std::fs::read(&files.authority).expect("the file was written"));
        let (outcome, transcript) = MxSender::new(settings).send_traced(&to(recipient)).await;
        let tls = transcript.expect("a connection was made").tls;
        if holds {
            assert!(
                matches!(outcome, Outcome::Delivered(_)),
                "{recipient}: {outcome:?}"
            );
            assert_eq!(tls.as_deref(), Some("TLSv1.3"), "{recipient}");
        } else {
            let Outcome::Unreachable(fault) = outcome else {
                panic!("{recipient}: {outcome:?}")
            };
            assert_eq!(
                (fault.kind, fault.side),
                (FaultKind::Tls, Side::Theirs),
                "{fault}"
            );
        }
    }
}

#[tokio::test]
async fn a_domain_that_requires_tls_gets_no_mail_without_it() {
    let internet = Internet::agreeable().await;
    let settings = MxSettings {
        tls_required: vec!["example.com".parse().unwrap()],
        ..internet.settings()
    };
    let Outcome::Unreachable(fault) = MxSender::new(settings).send(&mail("m1")).await else {
        panic!("the host offers no TLS")
    };
    assert_eq!((fault.kind, fault.side), (FaultKind::Tls, Side::Theirs));
    let settings = MxSettings {
        tls: TlsMode::Required,
        ..internet.settings()
    };
    assert!(matches!(
        MxSender::new(settings).send(&mail("m1")).await,
        Outcome::Unreachable(_)
    ));
    assert_eq!(internet.sent(), [0, 0]);
}

#[tokio::test]
async fn connections_are_made_from_the_source_addresses_of_the_route() {
    let internet = Internet::agreeable().await;
    let settings_with = |sources: &[&str]| MxSettings {
        sources: sources
            .iter()
            .map(|source| source.parse().expect("the text is an address"))
            .collect(),
        ..internet.settings()
    };
    let sender = MxSender::new(settings_with(&["127.0.0.7", "127.0.0.8"]));
    for _ in 0..4 {
        assert!(matches!(
            sender.send(&mail("m1")).await,
            Outcome::Delivered(_)
        ));
    }
    assert_eq!(
        internet.hosts[0].connections_of("EHLO").len(),
        2,
        "one connection from each address"
    );
    // An address that this machine does not have is a fault on our side.
    let sender = MxSender::new(settings_with(&["192.0.2.1"]));
    let Outcome::Unreachable(fault) = sender.send(&mail("m1")).await else {
        panic!("this machine does not have the source address")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Local, Side::Ours),
        "{fault}"
    );
}
