//! Turns the end of a program into an outcome, from its exit status (sysexits.h) and the first line
//! of its output.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use domain::outcome::{Fault, FaultKind, Outcome};
use domain::reply::Reply;

/// The exit statuses about the message or the address (sysexits.h). Each has the reply that is used
/// if the output contains none.
const EXIT_REPLIES: [(i32, &str); 5] = [
    (65, "554 5.6.0 data error"),
    (67, "550 5.1.1 no such user"),
    (68, "550 5.1.2 no such host"),
    (69, "554 5.3.0 service unavailable"),
    (75, "450 4.0.0 temporary failure"),
];

/// The exit statuses of a program that has not begun to send: it was called with wrong arguments
/// (64), misses its input (66) or a system file (72), or is not configured (78). The fault is ours,
/// and the job is held.
///
/// After any status that is in neither list it is unknown whether the mail was sent. A script ends
/// with the status of its last line. That may be 1 or 127 (command not found, in shells) from a
/// line after the one that sent the mail. 70, 71, 73, 74, 76 and 77 (software, system, output file,
/// input or output, protocol, permission) can occur at any time.
const NOT_BEGUN: [i32; 4] = [64, 66, 72, 78];

/// Returns the outcome. If the program ended with 0, it has accepted the message, and a bounce may
/// still come.
pub(super) fn outcome(status: ExitStatus, output: &[u8]) -> Result<Outcome, Fault> {
    let Some(code) = status.code() else {
        let signal = status.signal().unwrap_or_default();
        return Err(Fault::ours(
            FaultKind::Unanswered,
            format!("the program was killed by signal {signal}"),
        ));
    };
    let text = String::from_utf8_lossy(output);
    let found = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .map(Reply::parse);
    let found = found.filter(|reply| reply.code.is_some() || reply.status.is_some());
    if code == 0 {
        return Ok(Outcome::Accepted(
            found
                .filter(Reply::is_success)
                .unwrap_or_else(|| Reply::parse("250 2.0.0 taken")),
        ));
    }
    let Some((_, default)) = EXIT_REPLIES.iter().find(|(known, _)| *known == code) else {
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
    let default = Reply::parse(default);
    let class = default.class();
    // Output that contradicts the exit status does not count as a reply.
    let reply = found
        .filter(|reply| reply.class() == class)
        .unwrap_or(default);
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
            // The program has not begun to send.
            (64, "", "Local"),
            (66, "", "Local"),
            (72, "", "Local"),
            (78, "", "Local"),
            (126, "", "Unanswered"),
            (127, "", "Unanswered"),
            // The program may have sent.
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
            let found = match outcome(ExitStatus::from_raw(code << 8), output.as_bytes()) {
                Ok(Outcome::Accepted(reply)) => format!("Accepted {reply}"),
                Ok(Outcome::Deferred(reply)) => format!("Deferred {reply}"),
                Ok(Outcome::Refused(reply)) => format!("Refused {reply}"),
                Ok(_) => "another".to_owned(),
                Err(fault) => format!("{:?}", fault.kind),
            };
            assert_eq!(found, expected, "{code} {output:?}");
        }
        let killed = outcome(ExitStatus::from_raw(9), b"").unwrap_err();
        assert_eq!(
            killed.kind,
            FaultKind::Unanswered,
            "the program may have sent"
        );
    }
}
