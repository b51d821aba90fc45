//! What the end of a program means: its exit status by sysexits.h, and its output's first line.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use shared::outcome::{Fault, FaultKind, Outcome};
use shared::reply::Reply;

use super::ours;

/// How the exit statuses that speak of the message or the address end (sysexits.h), with the reply that stands for each
/// where the output has none. Every other one is the program's own trouble, and says nothing about them.
const EXITS: [(i32, &str); 5] = [
    (65, "554 5.6.0 data error"),
    (67, "550 5.1.1 no such user"),
    (68, "550 5.1.2 no such host"),
    (69, "554 5.3.0 service unavailable"),
    (75, "450 4.0.0 temporary failure"),
];

/// The outcome. A program that ends well has the message in its care, so that a bounce may still come.
pub(super) fn outcome(status: ExitStatus, output: &[u8]) -> Result<Outcome, Fault> {
    let Some(code) = status.code() else {
        let signal = status.signal().unwrap_or_default();
        return Err(ours(FaultKind::Unanswered, format!("the program was ended by signal {signal}")));
    };
    let text = String::from_utf8_lossy(output);
    let said = text.lines().find(|line| !line.trim().is_empty()).map(Reply::parse);
    let said = said.filter(|reply| reply.code.is_some() || reply.status.is_some());
    if code == 0 {
        return Ok(Outcome::Accepted(
            said.filter(Reply::is_success).unwrap_or_else(|| Reply::parse("250 2.0.0 taken")),
        ));
    }
    let Some((_, stands_for)) = EXITS.iter().find(|(known, _)| *known == code) else {
        return Err(ours(FaultKind::Local, format!("the program ended with status {code}")));
    };
    let stands_for = Reply::parse(stands_for);
    let class = stands_for.class();
    // Output that contradicts the exit status is not taken for a reply.
    let reply = said.filter(|reply| reply.class() == class).unwrap_or(stands_for);
    Ok(if code == 75 { Outcome::Deferred(reply) } else { Outcome::Refused(reply) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exit_status_has_its_outcome() {
        for (code, output, expected) in [
            (0, "", "Accepted 250 2.0.0 taken"),
            (0, "250 2.0.0 queued as 4711\nmore", "Accepted 250 2.0.0 queued as 4711"),
            (75, "", "Deferred 450 4.0.0 temporary failure"),
            (75, "\n4.2.2 mailbox full\n", "Deferred 4.2.2 mailbox full"),
            (75, "550 5.1.1 contradicts", "Deferred 450 4.0.0 temporary failure"),
            (67, "", "Refused 550 5.1.1 no such user"),
            (67, "unknown", "Refused 550 5.1.1 no such user"),
            (65, "", "Refused 554 5.6.0 data error"),
            (68, "", "Refused 550 5.1.2 no such host"),
            (69, "550 5.7.1 not you", "Refused 550 5.7.1 not you"),
            (1, "", "fault"),
            (64, "", "fault"),
            (78, "", "fault"),
            (127, "", "fault"),
        ] {
            let said = match outcome(ExitStatus::from_raw(code << 8), output.as_bytes()) {
                Ok(Outcome::Accepted(reply)) => format!("Accepted {reply}"),
                Ok(Outcome::Deferred(reply)) => format!("Deferred {reply}"),
                Ok(Outcome::Refused(reply)) => format!("Refused {reply}"),
                Ok(_) => "another".to_owned(),
                Err(_) => "fault".to_owned(),
            };
            assert_eq!(said, expected, "{code} {output:?}");
        }
        let killed = outcome(ExitStatus::from_raw(9), b"").unwrap_err();
        assert_eq!(killed.kind, FaultKind::Unanswered, "it may have sent");
    }
}
