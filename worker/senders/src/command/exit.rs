//! What the end of a program means: its exit status by sysexits.h, and its output's first line.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use domain::outcome::{Fault, FaultKind, Outcome};
use domain::reply::Reply;

/// How the exit statuses that speak of the message or the address end (sysexits.h), with the reply
/// that stands for each where the output has none.
const EXITS: [(i32, &str); 5] = [
    (65, "554 5.6.0 data error"),
    (67, "550 5.1.1 no such user"),
    (68, "550 5.1.2 no such host"),
    (69, "554 5.3.0 service unavailable"),
    (75, "450 4.0.0 temporary failure"),
];

/// The exit statuses of a program that has not begun: it was called wrongly (64), misses its input
/// (66) or a file of the system (72), or is not configured (78). This is our trouble, and is held.
/// After any other one nobody knows: a script ends with the status of its last line, be it 1 or 127
/// (not there, as shells say it) from a line after the one that sent, and 70, 71, 73, 74, 76 and 77
/// (software, system, output file, input or output, protocol, permission) can come at any time.
const NOT_BEGUN: [i32; 4] = [64, 66, 72, 78];

/// The outcome. A program that ends well has the message in its care, so that a bounce may still
/// come.
pub(super) fn outcome(status: ExitStatus, output: &[u8]) -> Result<Outcome, Fault> {
    let Some(code) = status.code() else {
        let signal = status.signal().unwrap_or_default();
        return Err(Fault::ours(
            FaultKind::Unanswered,
            format!("the program was ended by signal {signal}"),
        ));
    };
    let text = String::from_utf8_lossy(output);
    let said = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .map(Reply::parse);
    let said = said.filter(|reply| reply.code.is_some() || reply.status.is_some());
    if code == 0 {
        return Ok(Outcome::Accepted(
            said.filter(Reply::is_success)
                .unwrap_or_else(|| Reply::parse("250 2.0.0 taken")),
        ));
    }
    let Some((_, stands_for)) = EXITS.iter().find(|(known, _)| *known == code) else {
        let kind = if NOT_BEGUN.contains(&code) {
            FaultKind::Local
        } else {
            FaultKind::Unanswered
        };
        return Err(Fault::ours(
            kind,
            format!("the program ended with status {code}"),
        ));
    };
    let stands_for = Reply::parse(stands_for);
    let class = stands_for.class();
    // Output that contradicts the exit status is not taken for a reply.
    let reply = said
        .filter(|reply| reply.class() == class)
        .unwrap_or(stands_for);
    Ok(if code == 75 {
        Outcome::Deferred(reply)
    } else {
        Outcome::Refused(reply)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exit_status_has_its_outcome() {
        for (code, output, expected) in [
            (0, "", "Accepted 250 2.0.0 taken"),
            (
                0,
                "250 2.0.0 queued as 4711\nmore",
                "Accepted 250 2.0.0 queued as 4711",
            ),
            (75, "", "Deferred 450 4.0.0 temporary failure"),
            (75, "\n4.2.2 mailbox full\n", "Deferred 4.2.2 mailbox full"),
            (
                75,
                "550 5.1.1 contradicts",
                "Deferred 450 4.0.0 temporary failure",
            ),
            (67, "", "Refused 550 5.1.1 no such user"),
            (67, "unknown", "Refused 550 5.1.1 no such user"),
            (65, "", "Refused 554 5.6.0 data error"),
            (68, "", "Refused 550 5.1.2 no such host"),
            (69, "550 5.7.1 not you", "Refused 550 5.7.1 not you"),
            // It has not begun.
            (64, "", "Local"),
            (66, "", "Local"),
            (72, "", "Local"),
            (78, "", "Local"),
            (126, "", "Unanswered"),
            (127, "", "Unanswered"),
            // It may have sent.
            (1, "", "Unanswered"),
            (1, "250 2.0.0 queued as 4711", "Unanswered"),
            (2, "", "Unanswered"),
            (70, "", "Unanswered"),
            (71, "", "Unanswered"),
            (73, "", "Unanswered"),
            (74, "", "Unanswered"),
            (76, "", "Unanswered"),
            (77, "", "Unanswered"),
            (125, "", "Unanswered"),
            (137, "", "Unanswered"),
            (255, "", "Unanswered"),
        ] {
            let said = match outcome(ExitStatus::from_raw(code << 8), output.as_bytes()) {
                Ok(Outcome::Accepted(reply)) => format!("Accepted {reply}"),
                Ok(Outcome::Deferred(reply)) => format!("Deferred {reply}"),
                Ok(Outcome::Refused(reply)) => format!("Refused {reply}"),
                Ok(_) => "another".to_owned(),
                Err(fault) => format!("{:?}", fault.kind),
            };
            assert_eq!(said, expected, "{code} {output:?}");
        }
        let killed = outcome(ExitStatus::from_raw(9), b"").unwrap_err();
        assert_eq!(killed.kind, FaultKind::Unanswered, "it may have sent");
    }
}
