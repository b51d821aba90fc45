//! What every sender must guarantee, as one test suite. Run [`conforms`] on your sender against a
//! peer that accepts every message, and [`ends_in_time`] against a peer that hangs.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use domain::address::Address;
use domain::outcome::Outcome;
use futures::future::join_all;
use tokio::time::timeout;

use crate::attempt::Attempt;
use crate::sender::Sender;

/// How many attempts run at once.
const AT_ONCE: usize = 8;

/// After how long attempts are cancelled.
const CANCELLED_AFTER: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_micros(200),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
];

/// A sender under test, with its properties.
pub struct Subject<'a> {
    /// The sender.
    pub sender: &'a dyn Sender,
    /// The time within which it guarantees an outcome.
    pub limit: Duration,
    /// Whether its peer accepts mail for internationalized addresses.
    pub takes_utf8: bool,
}

/// Checks everything that is visible from outside:
///
/// - each message has an outcome within the time limit, without a panic;
/// - a cancelled attempt does not disturb the next one;
/// - attempts may run at once;
/// - texts that are logged contain no recipient address;
/// - the peer receives exactly the bytes of the content.
///
/// `received` returns all contents that the peer has received so far, in any order.
///
/// # Panics
/// If a rule is broken; the message names the rule.
pub async fn conforms<F: Future<Output = Vec<Bytes>>>(
    subject: &Subject<'_>,
    received: impl Fn() -> F,
) {
    every_message_has_an_outcome(subject).await;
    content_is_not_changed(subject, &received).await;
    a_cancelled_attempt_does_not_disturb_the_next(subject).await;
    attempts_may_run_at_once(subject).await;
}

/// Checks a sender whose peer hangs at any point. Each of several attempts at once must have an
/// outcome within the time limit, and none may count as sent. `name` identifies the sender in the
/// panic message.
///
/// # Panics
/// If an attempt counts as sent or has no outcome in time.
pub async fn ends_in_time(name: &str, subject: &Subject<'_>) {
    let attempts: Vec<Attempt> = (0..AT_ONCE).map(plain).collect();
    for outcome in join_all(attempts.iter().map(|attempt| send(subject, attempt))).await {
        assert!(
            !got_through(&outcome),
            "{name}: a peer that hangs has accepted nothing: {outcome:?}"
        );
    }
}

fn attempt(
    recipient: &str,
    from: Option<&str>,
    message_id: &str,
    content: Option<Bytes>,
) -> Attempt {
    let address = |text: &str| Address::parse(text).expect("the suite's addresses are valid");
    let mut attempt = Attempt::first(address(recipient), message_id);
    attempt.envelope_from = from.map(address);
    attempt.content = content;
    attempt
}

fn plain(number: usize) -> Attempt {
    let content =
        format!("Message-ID: <c{number}@example.org>\r\nSubject: {number}\r\n\r\nHello\r\n");
    attempt(
        "jo@example.com",
        Some("bounce@news.example.org"),
        &format!("<c{number}@example.org>"),
        Some(content.into()),
    )
}

async fn send(subject: &Subject<'_>, attempt: &Attempt) -> Outcome {
    // Allows some extra time on a busy machine.
    let limit = subject.limit + Duration::from_secs(5);
    let outcome = timeout(limit, subject.sender.send(attempt)).await;
    let outcome = outcome.unwrap_or_else(|_| {
        panic!(
            "no outcome within {:?}: {}",
            subject.limit, attempt.message_id
        )
    });
    if let Outcome::Unreachable(fault) = &outcome {
        assert!(
            !fault.text.contains(attempt.recipient.as_str()),
            "a fault contains no recipient address: {}",
            fault.text
        );
    }
    if let Outcome::Unreadable(why) = &outcome {
        assert!(
            !why.contains(attempt.recipient.as_str()),
            "a logged text contains no recipient address: {why}"
        );
    }
    outcome
}

fn got_through(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Delivered(_) | Outcome::Accepted(_))
}

async fn every_message_has_an_outcome(subject: &Subject<'_>) {
    let body = || Some(Bytes::from_static(b"Subject: x\r\n\r\ny\r\n"));
    let from = Some("bounce@news.example.org");
    for odd in [
        attempt("jo@example.com", None, "null-reverse-path", body()),
        attempt("-oQ/tmp@example.com", from, "hyphen", body()),
        attempt("jo@example.com", Some("-x@example.org"), "-hyphen", body()),
        attempt(
            "\"a b;$(true)\"@example.com",
            from,
            "quoted; rm -rf /",
            body(),
        ),
        attempt("jo@example.com", from, "no-content", None),
        attempt("jo@example.com", from, "empty", Some(Bytes::new())),
        attempt("jo@example.com", from, "no\r\nX-Injected: line\0", body()),
        attempt(
            "jo@example.com",
            from,
            "no\r\nRCPT TO:<sam@example.com>",
            body(),
        ),
        attempt(
            "jo@example.com",
            from,
            "large",
            Some(Bytes::from("x\r\n".repeat(400_000))),
        ),
        attempt("用户@例え.example", from, "utf8", body()),
    ] {
        let outcome = send(subject, &odd).await;
        if odd.message_id == "utf8" && !subject.takes_utf8 {
            assert!(
                !got_through(&outcome),
                "mail for an address that the peer does not support is not reported as sent"
            );
        }
        if odd.message_id == "null-reverse-path" {
            assert!(
                got_through(&outcome),
                "mail with the null reverse-path is sent: {outcome:?}"
            );
        }
    }
}

async fn content_is_not_changed<F: Future<Output = Vec<Bytes>>>(
    subject: &Subject<'_>,
    received: &impl Fn() -> F,
) {
    for content in [
        &b"Message-ID: <c1@example.org>\r\n\r\nplain\r\n"[..],
        b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\nQUIT\r\n",
        b"Subject: octets\r\n\r\n\xc3\xa4\xff\xfe\r\n",
        b"Subject: spaces\r\n\r\n \t \r\n\r\n\r\n",
        b"Subject: =?utf-8?q?x?=\r\nFrom: a@example.org\r\n\r\nFrom here on\r\n",
    ] {
        let sent = Bytes::from_static(content);
        if !subject.sender.wants_content() {
            return;
        }
        let outcome = send(
            subject,
            &attempt("jo@example.com", None, "bytes", Some(sent.clone())),
        )
        .await;
        assert!(
            got_through(&outcome),
            "the peer accepts everything: {outcome:?}"
        );
        assert!(
            received().await.contains(&sent),
            "content is not changed: {:?}",
            String::from_utf8_lossy(content)
        );
    }
}

async fn a_cancelled_attempt_does_not_disturb_the_next(subject: &Subject<'_>) {
    for (number, limit) in CANCELLED_AFTER.into_iter().enumerate() {
        let _ = timeout(limit, subject.sender.send(&plain(number))).await;
        let outcome = send(subject, &plain(100 + number)).await;
        assert!(
            got_through(&outcome),
            "an attempt after one that was cancelled after {limit:?} gets through: {outcome:?}"
        );
    }
}

async fn attempts_may_run_at_once(subject: &Subject<'_>) {
    let attempts: Vec<Attempt> = (0..AT_ONCE).map(plain).collect();
    for outcome in join_all(attempts.iter().map(|attempt| send(subject, attempt))).await {
        assert!(
            got_through(&outcome),
            "attempts that run at once do not disturb each other: {outcome:?}"
        );
    }
}
