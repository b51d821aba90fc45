//! Prints the result of a submission.

use std::io::{self, Write};

use anyhow::Result;
use serde_json::json;

use super::format::Format;
use super::progress_file::Done;
use super::refused_lines::{RefusedLines, SHOWN};
use crate::figures::thousands;

/// Returns how many items were answered, such as `3 bounces` or `3 bounces and 2 facts`.
pub(super) fn counted(done: &Done) -> String {
    let counted = |count: u64, noun: &str| match count {
        1 => format!("1 {noun}"),
        n => format!("{} {noun}s", thousands(n)),
    };
    let (bounces, facts) = (
        counted(done.bounces(), "bounce"),
        counted(done.facts, "fact"),
    );
    match (done.bounces(), done.facts) {
        (_, 0) => bounces,
        (0, _) => facts,
        _ => format!("{bounces} and {facts}"),
    }
}

/// Prints how many items got each answer, and where the refused lines are.
pub(super) fn print(format: Format, json: bool, done: &Done, refused: &RefusedLines) -> Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let (bounces, facts) = (done.bounces(), done.facts);
        writeln!(
            out,
            "{}",
            json!({"bounces": bounces, "facts": facts, "answers": done.answers, "line": done.line})
        )?;
    } else {
        let each: Vec<_> = done
            .answers
            .iter()
            .map(|(word, n)| format!("{} {word}", thousands(*n)))
            .collect();
        let colon = if each.is_empty() { "" } else { ": " };
        writeln!(out, "{}{colon}{}.", counted(done), each.join(", "))?;
    }
    if refused.count > 0 {
        let lines = if refused.count == 1 {
            "line is"
        } else {
            "lines are"
        };
        eprintln!(
            "{} refused {lines} in {}",
            thousands(refused.count),
            refused.path.display()
        );
        if refused.count > SHOWN {
            eprintln!(
                "only the first {SHOWN} are shown with their reason; \
                 correct them and submit that file to see the next ones"
            );
        }
    }
    let sent: u64 = done.answers.values().sum();
    match format {
        Format::Ndjson if sent > 0 && done.answers.get("refused") == Some(&sent) => {
            eprintln!(
                "no line was accepted; if this is a mail log, add --format kumomta or \
                 --format postfix"
            );
        }
        Format::Postfix if done.line > 0 && sent == 0 => {
            eprintln!(
                "none of {} lines reports deferred or bounced mail: is this Postfix's log?",
                thousands(done.line)
            );
        }
        _ => {}
    }
    Ok(())
}
