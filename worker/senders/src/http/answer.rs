//! Turns the platform's answer into an outcome: by its JSON body if it has one, otherwise by its
//! HTTP status.

use classify::hint::with_retry_after;
use domain::outcome::{Fault, FaultKind, Outcome};
use domain::reply::Reply;
use serde::Deserialize;

/// How much of an answer that cannot be parsed is shown, in characters.
const EXCERPT_CHARS: usize = 80;

#[derive(Deserialize)]
struct Answer {
    outcome: OutcomeName,
    #[serde(default)]
    reply: String,
    #[serde(default)]
    retry_after_s: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OutcomeName {
    Delivered,
    Accepted,
    Deferred,
    Refused,
}

/// Returns the outcome of an answer. `body` is `None` if it was larger than `answer_max`.
///
/// Only a 2xx with an empty body, or a body with the documented JSON, counts as success. A 2xx with
/// an error page does not. If the platform may have sent the mail before the failure, the result is
/// unknown and the attempt counts. If it did not count, the mail could be sent again and again. All
/// other answers mean that the request was rejected, and the job waits without spending an attempt.
pub(super) fn outcome(
    status: u16,
    retry_after_s: Option<u64>,
    body: Option<&[u8]>,
) -> Result<Outcome, Fault> {
    if let Some(answer) = body.and_then(|body| serde_json::from_slice::<Answer>(body).ok()) {
        return outcome_of_json(&answer, retry_after_s);
    }
    let is_empty = body.is_some_and(<[u8]>::is_empty);
    match status {
        202 if is_empty => Ok(Outcome::Accepted(Reply::parse("250 2.0.0 accepted"))),
        200..=299 if is_empty => Ok(Outcome::Delivered(Reply::parse("250 2.0.0 delivered"))),
        200..=299 => {
            let what = body.map_or_else(|| "more than answer_max".to_owned(), excerpt);
            Err(Fault::ours(
                FaultKind::Unanswered,
                format!("status {status} with a body that is not an outcome: {what}"),
            ))
        }
        410 => Ok(Outcome::Unreadable(
            "the platform no longer has the message (410)".to_owned(),
        )),
        _ => {
            let kind = if may_have_sent(status) {
                FaultKind::Unanswered
            } else {
                FaultKind::Local
            };
            Err(Fault::ours(
                kind,
                with_retry_after(&format!("the platform answered {status}"), retry_after_s),
            ))
        }
    }
}

/// Whether the platform may have sent the mail although it answered with this status (RFC 9110,
/// section 15): after 408 and every 5xx except 503, which means that the server accepts nothing
/// now.
fn may_have_sent(status: u16) -> bool {
    matches!(status, 408 | 500..=502 | 504..=599)
}

/// Returns the beginning of a body that cannot be parsed.
fn excerpt(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body)
        .chars()
        .take(EXCERPT_CHARS)
        .collect();
    format!("{text:?}")
}

/// Returns the outcome that the JSON describes. If its outcome and its reply contradict each other,
/// the result is unknown, so that no wrong conclusion about the address is drawn.
fn outcome_of_json(answer: &Answer, retry_after_s: Option<u64>) -> Result<Outcome, Fault> {
    let contradicts = |reply: &Reply| {
        let success = matches!(
            answer.outcome,
            OutcomeName::Delivered | OutcomeName::Accepted
        );
        let class = reply.class();
        class.is_some() && reply.is_success() != success
            || answer.outcome == OutcomeName::Deferred && reply.code.is_some_and(|code| code >= 500)
            || answer.outcome == OutcomeName::Refused && reply.code.is_some_and(|code| code < 500)
    };
    let reply = Reply::parse(&answer.reply);
    if contradicts(&reply) {
        return Err(Fault::ours(
            FaultKind::Unanswered,
            "the outcome and its reply contradict each other".to_owned(),
        ));
    }
    let reply_or = |text| {
        if answer.reply.is_empty() {
            Reply::parse(text)
        } else {
            reply.clone()
        }
    };
    Ok(match answer.outcome {
        OutcomeName::Delivered => Outcome::Delivered(reply_or("250 2.0.0 delivered")),
        OutcomeName::Accepted => Outcome::Accepted(reply_or("250 2.0.0 accepted")),
        OutcomeName::Refused => Outcome::Refused(reply_or("550 refused")),
        OutcomeName::Deferred => {
            let mut reply = reply_or("450 deferred");
            reply.text = with_retry_after(&reply.text, answer.retry_after_s.or(retry_after_s));
            Outcome::Deferred(reply)
        }
    })
}

#[cfg(test)]
mod tests {
    use classify::hint::hint;
    use std::time::Duration;

    use super::*;

    #[test]
    fn json_and_status_become_the_outcome() {
        for (status, body, expected) in [
            (
                200,
                r#"{"outcome":"delivered"}"#,
                "Delivered 250 2.0.0 delivered",
            ),
            (
                200,
                r#"{"outcome":"accepted","reply":"250 queued"}"#,
                "Accepted 250 queued",
            ),
            (
                200,
                r#"{"outcome":"deferred","reply":"452 4.3.1 full"}"#,
                "Deferred 452 4.3.1 full",
            ),
            (
                500,
                r#"{"outcome":"refused","reply":"550 5.1.1 unknown","more":1}"#,
                "Refused 550 5.1.1 unknown",
            ),
            (
                200,
                r#"{"outcome":"deferred","reply":"4.2.2 full","retry_after_s":60}"#,
                "Deferred 4.2.2 retry-after: 60s; full",
            ),
            (200, r#"{"outcome":"deferred"}"#, "Deferred 450 deferred"),
            (200, "", "Delivered 250 2.0.0 delivered"),
            (202, "", "Accepted 250 2.0.0 accepted"),
            (410, "gone", "Unreadable"),
            // The mail may have been sent.
            (200, "<html>Welcome</html>", "Unanswered"),
            (200, r#"{"outcome":"maybe"}"#, "Unanswered"),
            (
                200,
                r#"{"outcome":"delivered","reply":"550 no"}"#,
                "Unanswered",
            ),
            (
                200,
                r#"{"outcome":"deferred","reply":"550 5.1.1 no"}"#,
                "Unanswered",
            ),
            (
                200,
                r#"{"outcome":"refused","reply":"450 no"}"#,
                "Unanswered",
            ),
            (
                500,
                r#"{"outcome":"refused","reply":"250 ok"}"#,
                "Unanswered",
            ),
            (408, "", "Unanswered"),
            (500, "", "Unanswered"),
            (502, "<html>Bad Gateway</html>", "Unanswered"),
            (504, "", "Unanswered"),
            (524, "", "Unanswered"),
            // The request was rejected.
            (302, "", "Local"),
            (401, "", "Local"),
            (404, "<html>Not Found</html>", "Local"),
            (409, "", "Local"),
            (413, "", "Local"),
            (429, "", "Local"),
            (503, "", "Local"),
        ] {
            let found = match outcome(status, None, Some(body.as_bytes())) {
                Ok(Outcome::Delivered(reply)) => format!("Delivered {reply}"),
                Ok(Outcome::Accepted(reply)) => format!("Accepted {reply}"),
                Ok(Outcome::Deferred(reply)) => format!("Deferred {reply}"),
                Ok(Outcome::Refused(reply)) => format!("Refused {reply}"),
                Ok(Outcome::Unreadable(_)) => "Unreadable".to_owned(),
                Ok(Outcome::Unreachable(fault)) | Err(fault) => format!("{:?}", fault.kind),
            };
            assert_eq!(found, expected, "{status} {body}");
        }
    }

    #[test]
    fn an_answer_too_long_to_read_is_judged_by_its_status() {
        for (status, kind) in [
            (200, FaultKind::Unanswered),
            (500, FaultKind::Unanswered),
            (404, FaultKind::Local),
        ] {
            assert_eq!(
                outcome(status, None, None).unwrap_err().kind,
                kind,
                "{status}"
            );
        }
        assert!(matches!(
            outcome(410, None, None),
            Ok(Outcome::Unreadable(_))
        ));
    }

    #[test]
    fn the_delay_that_the_platform_asks_for_becomes_a_hint() {
        let Ok(Outcome::Deferred(reply)) = outcome(
            200,
            Some(300),
            Some(br#"{"outcome":"deferred","reply":"451 4.7.1 wait 10 minutes"}"#),
        ) else {
            panic!("it should be deferred")
        };
        assert_eq!(hint(&reply.text), Some(Duration::from_secs(300)));
        let Err(fault) = outcome(503, Some(7_200), Some(b"")) else {
            panic!("503 is a fault")
        };
        assert_eq!(hint(&fault.text), Some(Duration::from_secs(7_200)));
        let Err(fault) = outcome(504, Some(7_200), Some(b"late")) else {
            panic!("504 is a fault")
        };
        assert_eq!(hint(&fault.text), Some(Duration::from_secs(7_200)));
    }
}
