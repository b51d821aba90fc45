//! How attempts end that have no final answer: the next attempt links to them, and a settlement
//! that fails is shown.

use super::*;

/// Posts the bounce of a message.
async fn post_message(fleet: &Fleet, message: &str) {
    let mut mail = bounce(RECIPIENT, message, FULL);
    mail["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
    mail["traceparent"] = json!(SAMPLED);
    let posted = client()
        .post(format!("{}/v1/bounces", fleet.api))
        .json(&mail);
    assert_eq!(posted.send().await.unwrap().status(), 202);
}

/// Waits until this many attempts have come, and returns them in the order in which they began.
async fn attempts(collector: &Collector, count: usize) -> Vec<Received> {
    let mut attempts = collector.wait_for("process", count).await;
    attempts.sort_by_key(|attempt| attempt.span.start_time_unix_nano);
    attempts
}

#[tokio::test]
async fn an_attempt_links_to_the_one_before_also_if_that_was_interrupted() {
    let collector = Collector::http().await;
    let recipients = AtomicUsize::new(0);
    // The first message is delivered. The host does not answer to the second one.
    let peer = SmtpPeer::start(move |received| {
        let is_second = received.is("RCPT") && recipients.fetch_add(1, Ordering::Relaxed) == 1;
        if is_second {
            return Act::Hang;
        }
        agree(&received.command)
    })
    .await;
    let fleet = Fleet::start(&telemetry(&collector, "http")).await;
    for message in ["m1", "m2"] {
        post_message(&fleet, message).await;
    }
    let route = relay(&peer);
    let config = format!("{}[[route]]\nname = \"default\"\n{route}\n", fleet.config);
    let grace = [("REDELIVER_WORKER__GRACE", "0s".into())];
    let first = Redeliver::start_in(&grace, &["worker"], &config);
    peer.wait_for_command("RCPT", 2).await;
    assert!(first.terminate().await.success());
    let _second = fleet.worker(&route);
    let attempts = attempts(&collector, 2).await;
    let before = ("previous".to_owned(), attempts[0].span.span_id.clone());
    assert_eq!(attempts[1].links().last(), Some(&before));
}

#[tokio::test]
async fn an_attempt_links_to_the_one_before_also_if_a_relay_had_accepted_its_message() {
    let (collector, peer) = (Collector::http().await, SmtpPeer::agreeable().await);
    let fleet = Fleet::start(&telemetry(&collector, "http")).await;
    let _worker = fleet.worker(&format!("{}\nconfirm = \"1h\"", relay(&peer)));
    post_message(&fleet, "m1").await;
    collector.wait_for("settle", 1).await;
    // The relay reports that it could not deliver the message.
    post_message(&fleet, "m1").await;
    let attempts = attempts(&collector, 2).await;
    let before = ("previous".to_owned(), attempts[0].span.span_id.clone());
    assert_eq!(attempts[1].links().last(), Some(&before));
    let history = fleet.history().await.unwrap();
    let trace = hex(&attempts[0].span.trace_id);
    assert_eq!(history[1]["trace_id"], trace, "{history:?}");
}

#[tokio::test]
async fn a_settlement_that_fails_is_an_error_of_its_span() {
    // The lease is over, or its place in Redis has something that no script can read.
    for (command, error) in [("DEL", "stale"), ("SET", "store")] {
        let collector = Collector::http().await;
        let answer = Act::SayWhenReleased("250 2.0.0 Ok");
        let peer = SmtpPeer::agreeable_except(".", answer).await;
        let fleet = Fleet::start(&telemetry(&collector, "http")).await;
        let _worker = fleet.worker(&relay(&peer));
        post_message(&fleet, "m1").await;
        peer.wait_for_command(".", 1).await;
        for shard in 0..4 {
            let key = format!("{}:{{{shard}}}:leased", fleet.prefix);
            redis::ask(&redis::url(), &["DEL", &key]).await;
            if command == "SET" {
                redis::ask(&redis::url(), &["SET", &key, "x"]).await;
            }
        }
        peer.release_replies();
        let settle = collector.wait_for("settle", 1).await.remove(0);
        assert_eq!(settle.attribute("error.type").as_deref(), Some(error));
        assert!(is_error(&settle), "{settle:?}");
        assert_eq!(kind(&settle), SpanKind::Client);
    }
}
