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
use super::{Expected, LIMIT, Misbehavior, outcome};

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
    let recipient = Address::parse("jo@[127.0.0.1]").expect("the text is an address");
    let attempt = Attempt {
        recipient,
        ..mail("m1")
    };
    join_all(Misbehavior::all().map(async |what| {
        match (outcome(sender, &attempt, &what).await, what.expected) {
            (Outcome::Deferred(reply) | Outcome::Refused(reply), Expected::Reply(status)) => {
                assert!(
                    !what.is_before_mail() || reply.code.is_some_and(|code| code < 500),
                    "{what}: {reply}"
                );
                assert_eq!(
                    reply.status.map(|status| status.to_string()).as_deref(),
                    Some(status),
                    "{what}"
                );
            }
            // A greeting of 5xx means that the host cannot be reached.
            (Outcome::Unreachable(fault), Expected::Reply("5.3.4")) if what.is_before_mail() => {
                assert_eq!(
                    (fault.kind, fault.side),
                    (FaultKind::Connect, Side::Theirs),
                    "{what}: {fault}"
                );
            }
            (Outcome::Unreachable(fault), Expected::Fault(kind)) => {
                assert_eq!(
                    (fault.kind, fault.side),
                    (what.fault(kind), Side::Theirs),
                    "{what}: {fault}"
                );
            }
            (other, _) => panic!("{what}: {other:?}"),
        }
    }))
    .await;
}
