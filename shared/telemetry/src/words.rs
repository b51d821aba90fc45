//! The words for outcomes, statuses and attempts in spans and labels: few of each.

use domain::outcome::{FaultKind, Outcome};
use domain::reply::Reply;

/// Returns why an outcome is no success, as one of a few words. `None` if it is one.
pub(crate) fn error_type(outcome: &Outcome) -> Option<&'static str> {
    Some(match outcome {
        Outcome::Delivered(_) | Outcome::Accepted(_) => return None,
        Outcome::Deferred(_) => "deferred",
        Outcome::Refused(_) => "refused",
        Outcome::Unreadable(_) => "unreadable",
        Outcome::Unreachable(fault) => match fault.kind {
            FaultKind::Lookup => "lookup",
            FaultKind::Connect => "connect",
            FaultKind::Lost => "lost",
            FaultKind::Unanswered => "unanswered",
            FaultKind::NotSmtp => "not_smtp",
            FaultKind::Tls => "tls",
            FaultKind::Local => "local",
        },
    })
}

/// Returns an outcome as one word.
pub(crate) fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered(_) => "delivered",
        Outcome::Accepted(_) => "accepted",
        _ => error_type(outcome).unwrap_or("none"),
    }
}

/// Returns the first digit of a reply's status, or of its code if it has no status.
pub(crate) fn class_of(reply: Option<&Reply>) -> &'static str {
    let digit = reply.and_then(|reply| {
        let status = reply.status.map(|status| status.class().digit());
        status.or_else(|| reply.code.and_then(|code| u8::try_from(code / 100).ok()))
    });
    match digit {
        Some(2) => "2",
        Some(4) => "4",
        Some(5) => "5",
        _ => "none",
    }
}

/// Returns the number of an attempt. All from the ninth on count together.
pub(crate) fn attempt_word(number: u32) -> &'static str {
    const WORDS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9+"];
    WORDS[number.min(9) as usize]
}

#[cfg(test)]
mod tests {
    use domain::outcome::Fault;

    use super::*;

    #[test]
    fn each_outcome_is_a_word_and_has_the_class_of_its_status_or_code() {
        let reply = Reply::parse;
        for (outcome, word, class) in [
            (Outcome::Delivered(reply("250 2.0.0 Ok")), "delivered", "2"),
            (Outcome::Accepted(reply("250 Ok")), "accepted", "2"),
            (Outcome::Deferred(reply("451 4.3.2 later")), "deferred", "4"),
            (Outcome::Refused(reply("550 no such user")), "refused", "5"),
            (Outcome::Deferred(reply("what?")), "deferred", "none"),
            (Outcome::Unreadable(String::new()), "unreadable", "none"),
            (
                Outcome::Unreachable(Fault::theirs(FaultKind::Connect, String::new())),
                "connect",
                "none",
            ),
        ] {
            assert_eq!(outcome_word(&outcome), word);
            assert_eq!(class_of(outcome.reply()), class, "{word}");
        }
    }

    #[test]
    fn all_attempts_from_the_ninth_on_count_together() {
        let words: Vec<_> = [1, 8, 9, 10, u32::MAX].map(attempt_word).into();
        assert_eq!(words, ["1", "8", "9+", "9+", "9+"]);
    }
}
