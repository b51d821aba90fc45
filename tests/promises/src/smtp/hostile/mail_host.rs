//! The same as a mail host, which is not ours: its trouble is its own.

use std::time::Duration;

use domain::address::Address;
use domain::outcome::{FaultKind, Outcome, Side};
use futures::future::join_all;
use harness::smtp::SmtpPeer;
use senders::attempt::Attempt;
use senders::mx::MxSender;
use senders::settings::mx::MxSettings;
use senders::settings::session::SmtpTimeouts;

use super::super::mail;
use super::{COMMANDS, LIMIT, failures, outcome_by};

fn sender(peer: &SmtpPeer) -> MxSender {
    let mut settings = MxSettings {
        port: peer.address.port(),
        private_hosts: true,
        // Nobody is asked where an address is.
        nameservers: vec![peer.address],
        lookup_timeout: Duration::from_secs(2),
        ..MxSettings::default()
    };
    settings.session.timeouts = SmtpTimeouts::all(LIMIT);
    MxSender::new(settings)
}

#[tokio::test]
async fn a_mail_host_may_fail_in_every_way_and_what_is_not_a_reply_is_its_trouble() {
    let cases = COMMANDS
        .into_iter()
        .flat_map(|command| failures().map(|(act, status, kind)| (command, act, status, kind)));
    let cases = cases.flat_map(|case| [(case, false), (case, true)]);
    join_all(
        cases.map(async |((command, act, status, kind), pipelines)| {
            let what = format!(
                "{command:?}, {:.80}, pipelines {pipelines}",
                format!("{act:?}")
            );
            let recipient = Address::parse("jo@[127.0.0.1]").expect("it is one");
            let attempt = Attempt {
                recipient,
                ..mail("m1")
            };
            let before_mail = matches!(command, "" | "EHLO");
            match (
                outcome_by(sender, &attempt, command, act, pipelines).await,
                status,
                kind,
            ) {
                (Outcome::Deferred(reply) | Outcome::Refused(reply), Some(status), None) => {
                    assert!(
                        !before_mail || reply.code.is_some_and(|code| code < 500),
                        "{what}: {reply}"
                    );
                    assert_eq!(
                        reply.status.map(|status| status.to_string()).as_deref(),
                        Some(status),
                        "{what}"
                    );
                }
                // A greeting of 5xx is a host that cannot be reached.
                (Outcome::Unreachable(fault), Some("5.3.4"), None) if before_mail => {
                    assert_eq!(
                        (fault.kind, fault.side),
                        (FaultKind::Connect, Side::Theirs),
                        "{what}: {fault}"
                    );
                }
                (Outcome::Unreachable(fault), None, Some(kind)) => {
                    let kind = if command == "." {
                        FaultKind::Unanswered
                    } else {
                        kind
                    };
                    assert_eq!(
                        (fault.kind, fault.side),
                        (kind, Side::Theirs),
                        "{what}: {fault}"
                    );
                }
                (other, ..) => panic!("{what}: {other:?}"),
            }
        }),
    )
    .await;
}
