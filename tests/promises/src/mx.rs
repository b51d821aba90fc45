//! The mx sender finds the recipients' mail hosts, goes on to the next where one is no use, and
//! nowhere else.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use domain::address::Address;
use domain::outcome::{FaultKind, Outcome, Side};
use harness::bounce::FULL;
use harness::certificates::Certificates;
use harness::dns::{DnsServer, Mood};
use harness::smtp::{Act, Received, SmtpPeer, agree};
use senders::attempt::Attempt;
use senders::in_doubt::InDoubt;
use senders::mx::MxSender;
use senders::sender::Sender;
use senders::settings::mx::MxSettings;
use senders::settings::session::{SmtpTimeouts, TlsMode};
use tokio_util::sync::CancellationToken;

use crate::smtp::mail;

type Script = fn(&Received) -> Act;

struct Internet {
    dns: DnsServer,
    /// Two hosts, `mx1.example.com` and `mx2.example.com`, that listen on the same port of
    /// different addresses.
    hosts: [SmtpPeer; 2],
}

impl Internet {
    async fn new(first: Script, second: Script) -> Self {
        let dns = DnsServer::start().await;
        dns.knows(
            "example.com",
            &[(20, "mx2.example.com."), (10, "mx1.example.com.")],
        );
        dns.places("mx1.example.com", &["127.0.0.1"])
            .places("mx2.example.com", &["127.0.0.2"]);
        let first = SmtpPeer::start(first).await;
        let at = SocketAddr::new([127, 0, 0, 2].into(), first.address.port());
        let second = SmtpPeer::start_at(at, None, second).await;
        Self {
            dns,
            hosts: [first, second],
        }
    }

    async fn agreeable() -> Self {
        Self::new(
            |received| agree(&received.command),
            |received| agree(&received.command),
        )
        .await
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
        recipient: Address::parse(recipient).expect("it is one"),
        ..mail("m1")
    }
}

#[tokio::test]
async fn the_preferred_host_gets_the_mail_over_a_connection_that_stays() {
    let internet = Internet::agreeable().await;
    let sender = internet.sender();
    for _ in 0..3 {
        let (outcome, transcript) = sender.send_traced(&mail("m1")).await;
        assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
        assert_eq!(
            transcript.expect("there was a wire").host,
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
    assert_eq!(asked, 1, "the DNS is asked once while its answer holds");
}

#[tokio::test]
async fn a_host_that_is_no_use_is_passed_over_and_what_it_says_of_the_message_is_not() {
    let busy = |received: &Received| {
        if received.command.is_empty() {
            Act::SayAndClose("421 4.3.2 busy")
        } else {
            Act::Close
        }
    };
    let unwilling = |received: &Received| {
        if received.command.is_empty() {
            Act::Say("554 no mail here")
        } else {
            Act::Close
        }
    };
    let closing = |received: &Received| match received.command.starts_with("RCPT") {
        true => Act::SayAndClose("421 4.4.2 closing"),
        false => agree(&received.command),
    };
    let lost = |received: &Received| {
        if received.command == "DATA" {
            Act::Reset
        } else {
            agree(&received.command)
        }
    };
    let hosts: [(&str, Script); 4] = [
        ("busy", busy),
        ("unwilling", unwilling),
        ("closing", closing),
        ("lost", lost),
    ];
    for (name, script) in hosts {
        let internet = Internet::new(script, |received| agree(&received.command)).await;
        let outcome = internet.sender().send(&mail("m1")).await;
        assert!(
            matches!(outcome, Outcome::Delivered(_)),
            "{name}: {outcome:?}"
        );
        assert_eq!(internet.sent(), [0, 1], "{name}");
    }
    let full = |received: &Received| match received.command.starts_with("RCPT") {
        true => Act::Say(FULL),
        false => agree(&received.command),
    };
    let internet = Internet::new(full, |received| agree(&received.command)).await;
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
async fn where_no_host_is_of_use_it_is_their_trouble_and_a_reply_is_kept() {
    let busy = |_: &Received| Act::SayAndClose("421 4.3.2 busy");
    let gone = |_: &Received| Act::Close;
    let internet = Internet::new(busy, gone).await;
    let Outcome::Deferred(reply) = internet.sender().send(&mail("m1")).await else {
        panic!("it was answered")
    };
    assert_eq!(reply.to_string(), "421 4.3.2 busy");

    let unwilling = |_: &Received| Act::SayAndClose("554 5.7.1 not you");
    let internet = Internet::new(unwilling, gone).await;
    let Outcome::Unreachable(fault) = internet.sender().send(&mail("m1")).await else {
        panic!("nobody took it")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Connect, Side::Theirs),
        "{fault}"
    );
}

#[tokio::test]
async fn a_host_is_not_blamed_for_an_answer_that_we_did_not_wait_for() {
    let slow = |received: &Received| {
        if received.command == "." {
            Act::Hang
        } else {
            agree(&received.command)
        }
    };
    let internet = Internet::new(slow, |received| agree(&received.command)).await;
    let cut = CancellationToken::new();
    cut.cancel();
    let attempt = Attempt {
        in_doubt: InDoubt::until(cut),
        ..mail("m1")
    };
    let mut settings = internet.settings();
    settings.session.timeouts = SmtpTimeouts::all(Duration::from_secs(60));
    let Outcome::Unreachable(fault) = MxSender::new(settings).send(&attempt).await else {
        panic!("nobody knows")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Unanswered, Side::Ours)
    );
    assert_eq!(internet.sent(), [1, 0]);
}

#[tokio::test]
async fn a_message_that_may_have_been_taken_is_not_given_to_the_next_host() {
    let lost = |received: &Received| {
        if received.command == "." {
            Act::Close
        } else {
            agree(&received.command)
        }
    };
    let internet = Internet::new(lost, |received| agree(&received.command)).await;
    let Outcome::Unreachable(fault) = internet.sender().send(&mail("m1")).await else {
        panic!("nobody knows")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Unanswered, Side::Theirs)
    );
    assert_eq!(internet.sent(), [1, 0]);
    // Nor is one that the host has heard to its end and puts off.
    let later = |received: &Received| {
        if received.command == "." {
            Act::SayAndClose("421 4.3.0 later")
        } else {
            agree(&received.command)
        }
    };
    let internet = Internet::new(later, |received| agree(&received.command)).await;
    let Outcome::Deferred(reply) = internet.sender().send(&mail("m1")).await else {
        panic!("it was put off")
    };
    assert_eq!(
        (reply.status, internet.sent()),
        ("4.3.0".parse().ok(), [1, 0])
    );
}

#[tokio::test]
async fn what_the_dns_says_is_an_outcome_of_its_own() {
    let internet = Internet::agreeable().await;
    internet
        .dns
        .knows("null.example", &[(0, ".")])
        .knows("hollow.example", &[(10, "nowhere.example.")]);
    internet.dns.places("implicit.example", &["127.0.0.1"]);
    let sender = internet.sender();
    let Outcome::Refused(reply) = sender.send(&to("jo@null.example")).await else {
        panic!("it takes no mail")
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
    for (mood, side) in [(Mood::Failing, Side::Theirs), (Mood::Silent, Side::Ours)] {
        internet.dns.becomes(mood);
        let recipient = format!("jo@{mood:?}.example");
        let Outcome::Unreachable(fault) = sender.send(&to(&recipient)).await else {
            panic!("{mood:?}")
        };
        assert_eq!(
            (fault.kind, fault.side),
            (FaultKind::Lookup, side),
            "{mood:?}: {fault}"
        );
    }
}

#[tokio::test]
async fn nobody_sends_us_into_our_own_network() {
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
async fn a_host_that_we_cannot_look_up_is_our_trouble_unless_another_one_answers() {
    let lookup_timeout = Duration::from_millis(300);
    let internet = Internet::new(
        |received| agree(&received.command),
        |_| Act::SayAndClose("421 4.3.2 busy"),
    )
    .await;
    internet
        .dns
        .conceals("concealed.example")
        .places("dead.example", &["127.0.0.3"]);
    for (other, ours) in [
        // It has no address, and is not there.
        ("nowhere.example", true),
        // Nobody listens there.
        ("dead.example", true),
        ("mx2.example.com", false),
    ] {
        for (n, preferences) in [(1, [10, 20]), (2, [20, 10])] {
            let domain = format!("of{n}.{other}");
            let [first, second] = preferences;
            internet.dns.knows(
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
    internet.dns.knows(
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
async fn a_host_of_a_kind_of_address_that_we_have_no_source_for_is_our_trouble() {
    let internet = Internet::agreeable().await;
    let sender = |source: &str| {
        MxSender::new(MxSettings {
            sources: vec![source.parse().expect("it is one")],
            ..internet.settings()
        })
    };
    let Outcome::Unreachable(fault) = sender("::1").send(&mail("m1")).await else {
        panic!("there is no way there")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Local, Side::Ours),
        "{fault}"
    );
    assert_eq!(internet.sent(), [0, 0]);
    // Where another address can be tried and fails, that says more.
    internet
        .dns
        .knows("both.example", &[(10, "both.example.")])
        .places("both.example", &["127.0.0.3", "::1"]);
    let Outcome::Unreachable(fault) = sender("127.0.0.1").send(&to("jo@both.example")).await else {
        panic!("no one")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Connect, Side::Theirs),
        "{fault}"
    );
}

#[tokio::test]
async fn a_host_that_is_away_by_ipv6_gets_the_mail_by_ipv4_and_one_that_is_there_gets_it_by_ipv6() {
    let internet = Internet::agreeable().await;
    internet
        .dns
        .knows("both.example", &[(10, "both.example.")])
        .places("both.example", &["127.0.0.1", "::1"]);
    let sender = internet.sender();
    let (outcome, transcript) = sender.send_traced(&to("jo@both.example")).await;
    assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
    assert_eq!(
        transcript.expect("there was a wire").address,
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
            transcript.expect("there was a wire").address,
            six.address.to_string(),
            "{recipient}"
        );
    }
    assert_eq!(internet.sent(), [1, 0]);
}

#[tokio::test]
async fn tls_to_an_address_needs_a_certificate_that_holds_for_the_address() {
    let folder = tempfile::tempdir().expect("there is room");
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
            Some(std::fs::read(&files.authority).expect("it was made"));
        let (outcome, transcript) = MxSender::new(settings).send_traced(&to(recipient)).await;
        let tls = transcript.expect("there was a wire").tls;
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
async fn a_domain_that_needs_tls_gets_nothing_without() {
    let internet = Internet::agreeable().await;
    let settings = MxSettings {
        tls_required: vec!["example.com".parse().unwrap()],
        ..internet.settings()
    };
    let Outcome::Unreachable(fault) = MxSender::new(settings).send(&mail("m1")).await else {
        panic!("no TLS")
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
async fn connections_come_from_the_addresses_of_the_route() {
    let internet = Internet::agreeable().await;
    let of = |sources: &[&str]| MxSettings {
        sources: sources
            .iter()
            .map(|source| source.parse().expect("it is one"))
            .collect(),
        ..internet.settings()
    };
    let sender = MxSender::new(of(&["127.0.0.7", "127.0.0.8"]));
    for _ in 0..4 {
        assert!(matches!(
            sender.send(&mail("m1")).await,
            Outcome::Delivered(_)
        ));
    }
    assert_eq!(
        internet.hosts[0].connections_of("EHLO").len(),
        2,
        "one connection from each"
    );
    // An address that this machine does not have is our own trouble.
    let Outcome::Unreachable(fault) = MxSender::new(of(&["192.0.2.1"])).send(&mail("m1")).await
    else {
        panic!()
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Local, Side::Ours),
        "{fault}"
    );
}
