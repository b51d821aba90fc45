//! For any behavior of the server in any phase, the sender returns the correct outcome in time.

use std::fmt;
use std::time::Duration;

use domain::address::Address;
use domain::outcome::{FaultKind, Outcome, Side};
use domain::transcript::Phase;
use futures::future::join_all;
use harness::random::Random;
use harness::smtp::{Act, SmtpPeer, agree};
use senders::attempt::Attempt;
use senders::sender::Sender;
use senders::settings::session::{AfterDot, SmtpTimeouts};
use senders::settings::smtp::SmtpSettings;
use senders::smtp::SmtpSender;

use super::mail;

mod mail_host;
mod secured;

const LIMIT: Duration = Duration::from_millis(250);

/// The phases, each by the command that begins it.
const COMMANDS: [&str; 6] = ["", "EHLO", "MAIL", "RCPT", "DATA", "."];

/// The settings of a sender with a short time limit for each phase.
fn impatient(peer: &SmtpPeer) -> SmtpSettings {
    let mut settings = SmtpSettings::new(peer.address.ip().to_string(), peer.address.port());
    settings.session.timeouts = SmtpTimeouts::all(LIMIT);
    settings
}

/// The usual answers, with and without pipelining.
fn usual(command: &str, pipelines: bool) -> Act {
    match command.starts_with("EHLO") && pipelines {
        true => Act::Say("250-peer.example\r\n250-PIPELINING\r\n250 8BITMIME"),
        false => agree(command),
    }
}

/// The outcome of an attempt with a peer that behaves in this way.
async fn outcome<S: Sender>(
    sender_to: impl Fn(&SmtpPeer) -> S,
    attempt: &Attempt,
    behavior: &Misbehavior,
) -> Outcome {
    let Misbehavior {
        command,
        act,
        pipelines,
        ..
    } = *behavior;
    let peer = SmtpPeer::start(move |received| {
        let bad = received.is(command) || (command == "EHLO" && received.is("HELO"));
        if bad {
            act
        } else {
            usual(&received.command, pipelines)
        }
    })
    .await;
    let sender = sender_to(&peer);
    let most = SmtpTimeouts::all(LIMIT).whole() + Duration::from_secs(10);
    let sent = tokio::time::timeout(most, sender.send_traced(attempt)).await;
    let (outcome, transcript) =
        sent.unwrap_or_else(|_| panic!("{command:?}, {act:?}: no outcome in time"));
    let transcript = transcript.expect("there was a wire");
    let phase = match command {
        "" => Phase::Greeting,
        "EHLO" => Phase::Hello,
        "MAIL" => Phase::Mail,
        "RCPT" => Phase::Rcpt,
        "DATA" => Phase::Data,
        _ => Phase::Dot,
    };
    // With pipelining a connection reset can arrive at an earlier phase.
    assert!(
        transcript.phase == phase || matches!(act, Act::Reset),
        "{command:?}, {act:?}: {transcript:?}"
    );
    outcome
}

/// What must come of an act of the peer.
#[derive(Clone, Copy)]
enum Expected {
    /// A reply with this status.
    Reply(&'static str),
    /// A fault of this kind, because there was no valid reply.
    Fault(FaultKind),
}

/// A peer that does something wrong at one command.
struct Misbehavior {
    command: &'static str,
    act: Act,
    expected: Expected,
    pipelines: bool,
}

impl Misbehavior {
    /// Every failure at every command, with and without pipelining.
    fn all() -> impl Iterator<Item = Self> {
        let at_commands = COMMANDS
            .into_iter()
            .flat_map(|command| failures().map(|(act, expected)| (command, act, expected)));
        at_commands.flat_map(|(command, act, expected)| {
            [false, true].map(|pipelines| Self {
                command,
                act,
                expected,
                pipelines,
            })
        })
    }

    /// Whether it is before MAIL, so that a reply is not about the message.
    fn is_before_mail(&self) -> bool {
        matches!(self.command, "" | "EHLO")
    }

    /// The kind of fault that a missing reply is. After the dot the message may have been accepted.
    fn fault(&self, kind: FaultKind) -> FaultKind {
        if self.command == "." {
            FaultKind::Unanswered
        } else {
            kind
        }
    }
}

impl fmt::Display for Misbehavior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let act = format!("{:?}", self.act);
        write!(
            f,
            "{:?}, {act:.80}, pipelines {}",
            self.command, self.pipelines
        )
    }
}

/// All ways to fail: what the peer does, and what must come of it.
fn failures() -> [(Act, Expected); 14] {
    let long: &'static str = String::leak(format!("452 4.3.1 {}", "x".repeat(100 << 10)));
    let endless: &'static str = String::leak(format!("452 4.3.1 {}", "x".repeat(1 << 20)));
    let many: &'static str = String::leak(format!(
        "{}452 4.3.1 full",
        "452-4.3.1 more\r\n".repeat(1_000)
    ));
    let full = Expected::Reply("4.3.1");
    let not_smtp = Expected::Fault(FaultKind::NotSmtp);
    let lost = Expected::Fault(FaultKind::Lost);
    [
        (Act::Say("452 4.3.1 full"), full),
        (Act::Say("552 5.3.4 too large"), Expected::Reply("5.3.4")),
        (Act::ReplyAndClose("452 4.3.1 full"), full),
        (Act::Say(long), full),
        (Act::Say(many), full),
        (Act::Say(endless), not_smtp),
        (Act::Say("HTTP/1.1 400 Bad Request"), not_smtp),
        (Act::Say("\u{0}\u{1}\u{2}"), not_smtp),
        (Act::Say("999 what"), not_smtp),
        (Act::Hang, lost),
        (Act::Close, lost),
        (Act::Reset, lost),
        (Act::Begin("250-half\r\n250-a"), lost),
        (Act::Drip("250 slower than anyone waits", 40), lost),
    ]
}

#[tokio::test]
async fn every_kind_of_failure_in_every_phase_has_an_outcome_in_time() {
    join_all(Misbehavior::all().map(async |what| {
        let sender_to = |peer: &SmtpPeer| SmtpSender::new(impatient(peer));
        let outcome = outcome(sender_to, &mail("m1"), &what).await;
        match (outcome, what.expected) {
            (Outcome::Deferred(reply) | Outcome::Refused(reply), Expected::Reply(status)) => {
                assert!(
                    !what.is_before_mail(),
                    "{what}: this is not about the message"
                );
                assert_eq!(
                    reply.status.map(|status| status.to_string()).as_deref(),
                    Some(status),
                    "{what}"
                );
            }
            // A failure before MAIL is between the relay and us.
            (Outcome::Unreachable(fault), Expected::Reply(_)) => {
                assert!(what.is_before_mail(), "{what}: {fault}");
                assert_eq!(
                    (fault.kind, fault.side),
                    (FaultKind::Connect, Side::Ours),
                    "{what}"
                );
            }
            (Outcome::Unreachable(fault), Expected::Fault(kind)) => {
                assert_eq!(
                    (fault.kind, fault.side),
                    (what.fault(kind), Side::Ours),
                    "{what}: {fault}"
                );
            }
            (other, _) => panic!("{what}: {other:?}"),
        }
    }))
    .await;
}

#[tokio::test]
async fn each_message_to_a_server_that_acts_at_random_has_an_outcome_in_time() {
    const ACTS: [Act; 10] = [
        Act::Say("250 2.0.0 ok"),
        Act::Say("354 go on"),
        Act::Say("421 4.3.2 closing"),
        Act::Say("220 hello"),
        Act::Say("550 5.1.1 no"),
        Act::ReplyAndClose("451 4.3.0 no"),
        Act::Begin("250-"),
        Act::Say("garbage"),
        Act::Close,
        Act::Reset,
    ];
    join_all((0..40).map(async |seed| {
        let random = std::sync::Mutex::new(Random::from_seed(seed));
        let peer = SmtpPeer::start(move |received| {
            let mut random = random
                .lock()
                .expect("no thread panics while it holds the lock");
            match random.below(4) {
                0 => ACTS[random.below(ACTS.len())],
                _ => usual(&received.command, seed % 2 == 0),
            }
        })
        .await;
        let sender = SmtpSender::new(impatient(&peer));
        for n in 0..10 {
            let most = 3 * SmtpTimeouts::all(LIMIT).whole() + Duration::from_secs(10);
            let sent = tokio::time::timeout(most, sender.send(&mail("m1"))).await;
            sent.unwrap_or_else(|_| panic!("seed {seed}, message {n}: no outcome in time"));
        }
        let sent = peer
            .received()
            .iter()
            .filter(|received| received.command == ".")
            .count();
        assert!(
            sent <= 10,
            "seed {seed}: content that may have been accepted is not sent again by the same attempt"
        );
    }))
    .await;
}

#[tokio::test]
async fn a_message_not_answered_after_the_dot_can_count_as_accepted_and_is_recorded_as_unknown() {
    for (after_dot, assumed) in [(AfterDot::Resend, false), (AfterDot::AssumeDelivered, true)] {
        let peer = SmtpPeer::agreeable_except(".", Act::Close).await;
        let mut settings = impatient(&peer);
        settings.session.after_dot = after_dot;
        let (outcome, transcript) = SmtpSender::new(settings).send_traced(&mail("m1")).await;
        assert_eq!(
            matches!(outcome, Outcome::Accepted(_)),
            assumed,
            "{outcome:?}"
        );
        assert!(
            transcript
                .is_some_and(|transcript| transcript.unknown && transcript.phase == Phase::Dot)
        );
    }
}

#[tokio::test]
async fn replies_to_pipelined_commands_are_never_taken_as_replies_for_the_next_message() {
    // RCPT is refused and DATA is accepted. A server with pipelining may do that (RFC 2920, section
    // 3.1).
    let peer = SmtpPeer::start(|received| match received.command.as_str() {
        "RCPT TO:<jo@example.com>" => Act::Say("450 4.2.1 disabled"),
        command => usual(command, true),
    })
    .await;
    let sender = SmtpSender::new(impatient(&peer));
    let to_sam = Attempt {
        recipient: Address::parse("sam@example.com").expect("the text is an address"),
        ..mail("m2")
    };
    for _ in 0..3 {
        let Outcome::Deferred(reply) = sender.send(&mail("m1")).await else {
            panic!("the recipient was deferred")
        };
        assert_eq!(
            reply.to_string(),
            "450 4.2.1 disabled (in reply to RCPT TO command)"
        );
        assert!(matches!(sender.send(&to_sam).await, Outcome::Accepted(_)));
    }
    assert_eq!(
        peer.connections_of("MAIL"),
        [1; 6],
        "the connection is kept"
    );
}
