//! If the server is the mail host of a recipient, a failure without a reply is a failure of that
//! host and not on our side.

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
        // The address is a literal, so that no DNS server is asked.
        nameservers: vec![peer.address],
        lookup_timeout: Duration::from_secs(2),
        ..MxSettings::default()
    };
    settings.session.timeouts = SmtpTimeouts::all(LIMIT);
    MxSender::new(settings)
}

#[tokio::test]
async fn every_failure_of_a_mail_host_has_an_outcome_and_one_without_a_reply_is_its_own_fault() {
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
            let recipient = Address::parse("jo@[127.0.0.1]").expect("the text is an address");
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
                // A greeting of 5xx means that the host cannot be reached.
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
