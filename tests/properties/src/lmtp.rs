//! LMTP: each command has one reply, which is always well-formed. Content is read only if there are
//! recipients, and there are never more recipients than the bound.

use scheduler::intake::lmtp::dialogue::{Dialogue, Line, Next};

/// How many recipients a transaction may have here.
const RECIPIENTS_MAX: usize = 3;

/// Parses any bytes as the lines of a client. One in three recipients is refused.
///
/// # Panics
/// If an answer breaks a property.
pub fn check(bytes: &[u8]) {
    let mut dialogue = Dialogue::new("lmtp.example", 1 << 10, RECIPIENTS_MAX);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        // The last line of a connection may be incomplete.
        let line = if line.len() > 2_048 {
            Line::TooLong
        } else {
            Line::Whole(line.to_vec())
        };
        match dialogue.next(&line, |address| {
            if address.len() % 3 == 1 {
                Err("nobody")
            } else {
                Ok(())
            }
        }) {
            Next::Say(reply) => check_reply(&reply),
            Next::Content => {
                let recipients = dialogue.end_transaction();
                assert!(
                    (1..=RECIPIENTS_MAX).contains(&recipients.len()),
                    "{recipients:?}"
                );
            }
            Next::Leave(reply) => return check_reply(reply),
        }
    }
}

/// Checks a reply against RFC 5321, section 4.2: the same code on each line, and a space after it
/// only on the last line.
fn check_reply(reply: &str) {
    let lines: Vec<&str> = reply.split("\r\n").collect();
    for (n, line) in lines.iter().enumerate() {
        let ends = if n + 1 == lines.len() { ' ' } else { '-' };
        assert!(
            line.len() <= 510 && !line.contains(char::is_control),
            "{reply:?}"
        );
        assert!(
            line.starts_with(['2', '4', '5'])
                && line[..3] == reply[..3]
                && line[3..].starts_with(ends),
            "{reply:?}"
        );
    }
}
