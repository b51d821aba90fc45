//! What the platform's answer says: by its JSON where it has a body, else by its status.

use serde::Deserialize;
use shared::outcome::{Fault, FaultKind, Outcome};
use shared::reply::Reply;

use super::ours;

/// How much of an answer that is not understood is shown, in characters.
const SHOWN_CHARS: usize = 80;

#[derive(Deserialize)]
struct Answer {
    outcome: Word,
    #[serde(default)]
    reply: String,
    #[serde(default)]
    retry_after_s: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Delivered,
    Accepted,
    Deferred,
    Refused,
}

/// The outcome that an answer stands for. An error page is no answer: only a 2xx with nothing in it, or with our JSON,
/// says that mail got through. With a 2xx that says something else nobody knows, which spends an attempt; all the rest is the
/// platform's trouble, and waits without spending one.
pub(super) fn outcome(status: u16, retry_after_s: Option<u64>, body: &[u8]) -> Result<Outcome, Fault> {
    if let Ok(answer) = serde_json::from_slice::<Answer>(body) {
        return judged(&answer, retry_after_s);
    }
    match status {
        202 if body.is_empty() => Ok(Outcome::Accepted(Reply::parse("250 2.0.0 accepted"))),
        200..=299 if body.is_empty() => Ok(Outcome::Delivered(Reply::parse("250 2.0.0 delivered"))),
        200..=299 => {
            let text: String = String::from_utf8_lossy(body).chars().take(SHOWN_CHARS).collect();
            // It may have been sent: were it held, it could be sent again and again.
            Err(ours(FaultKind::Unanswered, format!("status {status} with something that is no outcome: {text:?}")))
        }
        410 => Ok(Outcome::Unreadable("the platform no longer has the message (410)".to_owned())),
        _ => Err(ours(FaultKind::Local, hinting(&format!("the platform answered {status}"), retry_after_s))),
    }
}

/// What the platform's words mean. An answer that contradicts itself is not understood, so that nothing is said about the
/// address by mistake.
fn judged(answer: &Answer, retry_after_s: Option<u64>) -> Result<Outcome, Fault> {
    let contradicts = |reply: &Reply| {
        let success = matches!(answer.outcome, Word::Delivered | Word::Accepted);
        let class = reply.class();
        class.is_some() && reply.is_success() != success
            || answer.outcome == Word::Deferred && reply.code.is_some_and(|code| code >= 500)
            || answer.outcome == Word::Refused && reply.code.is_some_and(|code| code < 500)
    };
    let reply = Reply::parse(&answer.reply);
    if contradicts(&reply) {
        return Err(ours(FaultKind::Garbled, "the outcome and its reply contradict each other".to_owned()));
    }
    let reply_or = |text| if answer.reply.is_empty() { Reply::parse(text) } else { reply.clone() };
    Ok(match answer.outcome {
        Word::Delivered => Outcome::Delivered(reply_or("250 2.0.0 delivered")),
        Word::Accepted => Outcome::Accepted(reply_or("250 2.0.0 accepted")),
        Word::Refused => Outcome::Refused(reply_or("550 refused")),
        Word::Deferred => {
            let mut reply = reply_or("450 deferred");
            reply.text = hinting(&reply.text, answer.retry_after_s.or(retry_after_s));
            Outcome::Deferred(reply)
        }
    })
}

/// The text with the time that the platform asks for, where policy's hints look for one. It stands first, because a text
/// may name other times.
fn hinting(text: &str, retry_after_s: Option<u64>) -> String {
    match retry_after_s {
        Some(seconds) => format!("retry-after: {}s; {text}", seconds.min(999_999)),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use shared::policy::hint::hint;
    use std::time::Duration;

    use super::*;

    #[test]
    fn json_and_status_become_the_outcome() {
        for (status, body, expected) in [
            (200, r#"{"outcome":"delivered"}"#, "Delivered 250 2.0.0 delivered"),
            (200, r#"{"outcome":"accepted","reply":"250 queued"}"#, "Accepted 250 queued"),
            (200, r#"{"outcome":"deferred","reply":"452 4.3.1 full"}"#, "Deferred 452 4.3.1 full"),
            (500, r#"{"outcome":"refused","reply":"550 5.1.1 unknown","more":1}"#, "Refused 550 5.1.1 unknown"),
            (
                200,
                r#"{"outcome":"deferred","reply":"4.2.2 full","retry_after_s":60}"#,
                "Deferred 4.2.2 retry-after: 60s; full",
            ),
            (200, r#"{"outcome":"deferred"}"#, "Deferred 450 deferred"),
            (200, "", "Delivered 250 2.0.0 delivered"),
            (202, "", "Accepted 250 2.0.0 accepted"),
            (410, "gone", "Unreadable"),
            (200, "<html>Welcome</html>", "fault"),
            (200, r#"{"outcome":"maybe"}"#, "fault"),
            (200, r#"{"outcome":"delivered","reply":"550 no"}"#, "fault"),
            (200, r#"{"outcome":"deferred","reply":"550 5.1.1 no"}"#, "fault"),
            (200, r#"{"outcome":"refused","reply":"450 no"}"#, "fault"),
            (302, "", "fault"),
            (404, "", "fault"),
            (429, "", "fault"),
            (503, "", "fault"),
        ] {
            let said = match outcome(status, None, body.as_bytes()) {
                Ok(Outcome::Delivered(reply)) => format!("Delivered {reply}"),
                Ok(Outcome::Accepted(reply)) => format!("Accepted {reply}"),
                Ok(Outcome::Deferred(reply)) => format!("Deferred {reply}"),
                Ok(Outcome::Refused(reply)) => format!("Refused {reply}"),
                Ok(Outcome::Unreadable(_)) => "Unreadable".to_owned(),
                Ok(Outcome::Unreachable(_)) | Err(_) => "fault".to_owned(),
            };
            assert_eq!(said, expected, "{status} {body}");
        }
    }

    #[test]
    fn the_time_that_the_platform_asks_for_is_a_hint() {
        let Ok(Outcome::Deferred(reply)) =
            outcome(200, Some(300), br#"{"outcome":"deferred","reply":"451 4.7.1 wait 10 minutes"}"#)
        else {
            panic!("it is deferred")
        };
        assert_eq!(hint(&reply.text), Some(Duration::from_secs(300)));
        let Err(fault) = outcome(503, Some(7_200), b"") else { panic!("503 is no outcome") };
        assert_eq!(hint(&fault.text), Some(Duration::from_secs(7_200)));
    }
}
