//! A real Postfix works as the mail host of the recipients, found through a real DNS.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use domain::address::Address;
use domain::outcome::{FaultKind, Outcome, Side};
use harness::dns::DnsServer;
use harness::postfix::{Postfix, Settings};
use harness::wait::eventually;
use policy::table::Table;
use senders::attempt::Attempt;
use senders::mx::MxSender;
use senders::sender::Sender;
use senders::settings::mx::MxSettings;
use senders::settings::session::TlsMode;
use tempfile::TempDir;

use super::{BODY, Tls, content, main_cf};

/// For each recipient: the answer of the access map, the reply that we receive, and the policy row
/// for it.
const REPLIES: [(&str, &str, &str, &str); 14] = [
    (
        "full",
        "452 4.3.1 Insufficient system storage",
        "452 4.3.1",
        "system-full",
    ),
    (
        "closed",
        "450 4.3.2 System not accepting network messages",
        "450 4.3.2",
        "system-not-accepting",
    ),
    (
        "closing",
        "421 4.3.2 System not accepting network messages",
        "421 4.3.2",
        "system-not-accepting",
    ),
    (
        "disabled",
        "450 4.2.1 Mailbox disabled, not accepting messages",
        "450 4.2.1",
        "mailbox-disabled",
    ),
    (
        "busy",
        "450 4.2.1 The user is receiving mail too quickly",
        "450 4.2.1",
        "mailbox-rate",
    ),
    (
        "quota",
        "452 4.2.2 Mailbox full",
        "452 4.2.2",
        "mailbox-full",
    ),
    // If the map gives no status, Postfix adds one.
    (
        "bare",
        "451 Try again later",
        "451 4.7.1",
        "greylisted-or-blocked",
    ),
    (
        "gray",
        "450 4.7.1 Greylisted, please try again in 300 seconds",
        "450 4.7.1",
        "greylisted",
    ),
    (
        "limited",
        "421 4.7.0 Temporarily rate limited, try again later",
        "421 4.7.0",
        "route-limited",
    ),
    (
        "lost",
        "450 4.4.1 Connection timed out",
        "450 4.4.1",
        "host-trouble",
    ),
    (
        "nobody",
        "550 5.1.1 User unknown",
        "550 5.1.1",
        "address-dead-by-text",
    ),
    (
        "overquota",
        "552 5.2.2 Mailbox full",
        "552 5.2.2",
        "mailbox-out-of-use-by-text",
    ),
    (
        "filtered",
        "554 5.7.1 Rejected by the content policy",
        "554 5.7.1",
        "refused",
    ),
    (
        "toobig",
        "552 5.3.4 Message too big",
        "552 5.3.4",
        "refused",
    ),
];

struct Internet {
    dns: DnsServer,
    host: Postfix,
}

impl Internet {
    /// `example.com`, with a Postfix as its only mail host, configured with these lines of
    /// `main.cf`.
    async fn with(mut settings: Settings) -> Self {
        settings
            .main
            .push("virtual_mailbox_domains = example.com".to_owned());
        let host = Postfix::start(settings).await;
        let dns = DnsServer::start().await;
        dns.set_mx("example.com", &[(10, "mx1.example.com.")]);
        dns.set_addresses("mx1.example.com", &[&host.address.ip().to_string()]);
        Self { dns, host }
    }

    fn settings(&self) -> MxSettings {
        MxSettings {
            port: self.host.address.port(),
            private_hosts: true,
            nameservers: vec![self.dns.address],
            lookup_timeout: Duration::from_secs(5),
            ..MxSettings::default()
        }
    }
}

fn mail(recipient: &str) -> Attempt {
    Attempt {
        envelope_from: Some(Address::parse("bounce@news.example.org").unwrap()),
        content: Some(content().into()),
        ..Attempt::first(
            Address::parse(&format!("{recipient}@example.com")).unwrap(),
            "m1",
        )
    }
}

/// Returns the line of `main.cf` with which Postfix gives each of these recipients its reply to
/// RCPT.
fn access_map(replies: impl Iterator<Item = (&'static str, &'static str)>) -> String {
    let entries: Vec<String> = replies
        .map(|(recipient, reply)| format!("{{{recipient}@example.com = {reply}}}"))
        .collect();
    format!(
        "smtpd_recipient_restrictions = check_recipient_access inline:{{ {} }}",
        entries.join(", ")
    )
}

#[tokio::test]
async fn each_reply_of_a_mail_host_is_understood_and_gets_its_policy_row() {
    let map = access_map(
        REPLIES
            .iter()
            .map(|(recipient, reply, ..)| (*recipient, *reply)),
    );
    let internet = Internet::with(main_cf(&[&map, "virtual_mailbox_maps = static:inbox/"])).await;
    let sender = MxSender::new(internet.settings());
    for (recipient, _, received, row) in REPLIES {
        let outcome = sender.send(&mail(recipient)).await;
        let (Outcome::Deferred(reply) | Outcome::Refused(reply)) = &outcome else {
            panic!("{recipient}: {outcome:?}")
        };
        assert!(
            reply.to_string().starts_with(received),
            "{recipient}: {reply}"
        );
        assert_eq!(
            matches!(outcome, Outcome::Refused(_)),
            received.starts_with('5'),
            "{recipient}: {outcome:?}"
        );
        assert_eq!(
            Table::embedded().row(reply, "", None, "example.com").name,
            row,
            "{recipient}: {reply}"
        );
    }
}

#[tokio::test]
async fn mail_arrives_unchanged_in_the_mailbox_of_the_recipient() {
    let folder = TempDir::new().unwrap();
    // Postfix writes to this folder as another user.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let base = format!("virtual_mailbox_base = {}", folder.path().display());
    let settings = main_cf(&[
        &base,
        "virtual_mailbox_maps = inline:{{jo@example.com = inbox/}}",
        "virtual_uid_maps = static:65534",
        "virtual_gid_maps = static:65534",
        "virtual_minimum_uid = 1",
    ]);
    let internet = Internet::with(settings).await;
    let (outcome, transcript) = MxSender::new(internet.settings())
        .send_traced(&mail("jo"))
        .await;
    assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
    assert_eq!(
        transcript.expect("a connection was made").host,
        "mx1.example.com"
    );
    let arrived = folder.path().join("inbox/new");
    let text = eventually("the mail to be in the mailbox", async || {
        let file = fs::read_dir(&arrived).ok()?.next()?.ok()?;
        fs::read_to_string(file.path()).ok()
    })
    .await;
    assert!(
        text.starts_with("Return-Path: <bounce@news.example.org>\n"),
        "{text}"
    );
    assert!(
        text.ends_with(&format!("\n\n{BODY}").replace("\r\n", "\n")),
        "{text}"
    );

    let Outcome::Refused(reply) = MxSender::new(internet.settings())
        .send(&mail("nobody"))
        .await
    else {
        panic!("there is no such mailbox")
    };
    // The reply is "5.1.1 User unknown in virtual mailbox table": the text repeats the status.
    assert_eq!(
        Table::embedded().row(&reply, "", None, "example.com").name,
        "address-dead-by-text",
        "{reply}"
    );
}

#[tokio::test]
async fn if_a_mail_host_is_busy_the_next_one_gets_the_mail() {
    let busy = main_cf(&[
        "smtpd_delay_reject = no",
        "smtpd_client_restrictions = check_client_access static:{421 4.3.2 busy}",
    ]);
    let internet = Internet::with(busy).await;
    let settings = Settings {
        at: ([127, 0, 0, 2], internet.host.address.port()).into(),
        ..main_cf(&[
            "virtual_mailbox_domains = example.com",
            "virtual_mailbox_maps = static:inbox/",
        ])
    };
    let Outcome::Deferred(reply) = MxSender::new(internet.settings()).send(&mail("jo")).await
    else {
        panic!("its only host is busy")
    };
    assert_eq!(
        Table::embedded().row(&reply, "", None, "example.com").name,
        "system-not-accepting",
        "{reply}"
    );

    let second = Postfix::start(settings).await;
    internet.dns.set_mx(
        "example.com",
        &[(10, "mx1.example.com."), (20, "mx2.example.com.")],
    );
    internet
        .dns
        .set_addresses("mx2.example.com", &["127.0.0.2"]);
    let (outcome, transcript) = MxSender::new(internet.settings())
        .send_traced(&mail("jo"))
        .await;
    assert!(
        matches!(outcome, Outcome::Delivered(_)),
        "{outcome:?}, {}",
        second.log()
    );
    assert_eq!(
        transcript.expect("a connection was made").host,
        "mx2.example.com"
    );
}

#[tokio::test]
async fn required_tls_to_a_mail_host_is_verified_for_the_name_from_the_dns() {
    let (tls, misnamed) = (Tls::of("mx1.example.com"), Tls::of("127.0.0.1"));
    for (name, server_tls, authority, sent) in [
        ("known", &tls, tls.authority(), true),
        ("for another name", &misnamed, misnamed.authority(), false),
        ("unknown", &tls, misnamed.authority(), false),
    ] {
        let mut settings = main_cf(&["virtual_mailbox_maps = static:inbox/"]);
        settings.main.extend(server_tls.main_cf());
        let internet = Internet::with(settings).await;
        let mut settings = MxSettings {
            tls_required: vec!["example.com".parse().unwrap()],
            ..internet.settings()
        };
        settings.session.certificates.authority = authority;
        let (outcome, transcript) = MxSender::new(settings).send_traced(&mail("jo")).await;
        let transcript = transcript.expect("a connection was made");
        match outcome {
            Outcome::Delivered(_) if sent => {
                assert_eq!(transcript.tls.as_deref(), Some("TLSv1.3"), "{name}");
            }
            Outcome::Unreachable(fault) if !sent => {
                assert_eq!(
                    (fault.kind, fault.side),
                    (FaultKind::Tls, Side::Theirs),
                    "{name}: {fault}"
                );
                assert!(
                    !internet.host.log().contains(": client="),
                    "{name}: no mail is sent"
                );
            }
            other => panic!("{name}: {other:?}, {}", internet.host.log()),
        }
        // If TLS is not required, mail is sent encrypted whether the certificate is valid or not.
        let (outcome, transcript) = MxSender::new(MxSettings {
            tls: TlsMode::Opportunistic,
            ..internet.settings()
        })
        .send_traced(&mail("jo"))
        .await;
        assert!(
            matches!(outcome, Outcome::Delivered(_)),
            "{name}: {outcome:?}"
        );
        assert_eq!(
            transcript.expect("a connection was made").tls.as_deref(),
            Some("TLSv1.3"),
            "{name}"
        );
    }
}
