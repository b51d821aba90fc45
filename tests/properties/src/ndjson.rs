//! NDJSON and log lines: the lines are the same for any size of the pieces in which the bytes
//! arrive, each line has one answer, and an accepted message can be read from its record.

use std::collections::HashSet;

use chrono::FixedOffset;
use domain::bounce::Bounce;
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::event::{Event, EventKind};
use domain::job::Message;
use scheduler::intake::facts;
use scheduler::intake::json::{self, Reader, Refusal};
use scheduler::intake::lines::{Line, Lines, Numbered};
use scheduler::intake::maillog::kumomta::Kumomta;
use scheduler::intake::maillog::postfix::Postfix;
use scheduler::intake::maillog::{LogItem, LogReader};
use serde_json::Value;

use crate::address::check_address;
use crate::is_one_line;
use crate::reply::{check_code_and_status, check_reply};

/// The longest line here, in bytes.
const LINE_MAX: usize = 4 << 10;

/// The most inline content here, in bytes.
const INLINE_MAX: usize = 1 << 10;

/// The current time in these checks.
const NOW: Timestamp = Timestamp::from_ms(1_767_312_000_000);

/// Parses any bytes as lines. The first byte determines the size of the pieces in which they
/// arrive.
///
/// # Panics
/// If a line, or its answer, breaks a property.
pub fn check(bytes: &[u8]) {
    let Some((size, body)) = bytes.split_first() else {
        return;
    };
    let lines = lines_in_pieces(body, body.len().max(1));
    assert_eq!(
        lines_in_pieces(body, usize::from(*size).max(1)),
        lines,
        "in pieces of {size}"
    );

    let numbers: HashSet<u64> = lines.iter().map(|(number, _)| *number).collect();
    assert_eq!(
        numbers.len(),
        lines.len(),
        "each line has a separate number"
    );
    let breaks = body.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert!(
        lines
            .iter()
            .all(|(number, line)| (1..=breaks + 1).contains(number) && line.size() <= LINE_MAX)
    );

    for (_, line) in &lines {
        if let Line::Whole(line) = line {
            check_line(line);
        }
    }
}

/// Parses any bytes as one line: of NDJSON, and of the logs that `redeliver submit` reads.
///
/// # Panics
/// If the result breaks a property.
pub fn check_line(line: &[u8]) {
    let judge = |item| match json::read(item, NOW, INLINE_MAX) {
        Ok(bounce) => check_bounce(&bounce),
        Err(refusal) => check_refusal(&refusal),
    };
    if let Ok(item) = serde_json::from_slice::<Value>(line) {
        let reader = Reader::new(INLINE_MAX, ["relay".to_owned()].into());
        let (at_once, piecewise) = (reader.read_text(line, NOW), reader.read(item.clone(), NOW));
        if entries_of_text(line) == entries_of_value(&item) {
            assert_eq!(
                format!("{at_once:?}"),
                format!("{piecewise:?}"),
                "a line is the same whether it is read at once or in pieces"
            );
        } else {
            assert!(
                at_once.is_err(),
                "an item with a repeated key is refused: {at_once:?}"
            );
        }
        judge(item);
    }
    let Ok(text) = std::str::from_utf8(line) else {
        return;
    };
    let mut postfix = Postfix::new(
        NOW,
        FixedOffset::east_opt(3_600).expect("an hour is a time zone"),
    );
    let read = [Kumomta::default().items(text), postfix.items(text)];
    for item in read.into_iter().flatten().flatten() {
        match item {
            LogItem::Bounce(bounce) => judge(bounce),
            LogItem::Fact(fact) => {
                if let Err(refusal) = facts::read(fact) {
                    check_refusal(&refusal);
                }
            }
        }
    }
}

/// How many keys the objects of a JSON text have, including repeated keys. After each key there is
/// a colon outside of strings.
fn entries_of_text(json: &[u8]) -> usize {
    let (mut count, mut in_string, mut is_escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            b':' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// How many keys the objects of a JSON value have.
fn entries_of_value(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(entries_of_value).sum(),
        Value::Object(fields) => {
            fields.len() + fields.values().map(entries_of_value).sum::<usize>()
        }
        _ => 0,
    }
}

/// The lines of bytes that arrive in pieces of this size.
fn lines_in_pieces(bytes: &[u8], size: usize) -> Vec<Numbered> {
    let mut found = Vec::new();
    let mut lines = Lines::new(LINE_MAX);
    bytes
        .chunks(size)
        .for_each(|chunk| lines.push(chunk, |line| found.push(line)));
    lines.finish(|line| found.push(line));
    found
}

/// Checks the properties of every accepted bounce.
pub(crate) fn check_bounce(bounce: &Bounce) {
    check_address(&bounce.recipient);
    check_reply(&bounce.reply);
    check_code_and_status(&bounce.reply);
    assert!(
        !bounce.reply.is_success(),
        "a bounce is a failure: {:?}",
        bounce.reply
    );
    let Message {
        id,
        stream,
        route,
        remote_mta,
        traceparent,
        ..
    } = &bounce.message;
    assert!(!id.is_empty(), "every message has an id");
    let names = [stream, route, remote_mta, traceparent]
        .into_iter()
        .flatten();
    assert!(
        [id].into_iter().chain(names).all(|name| is_one_line(name)),
        "{:?}",
        bounce.message
    );

    let line = bounce.message.line();
    assert!(
        is_one_line(&line),
        "a message is one line of a record: {line:?}"
    );
    let kept: Message = serde_json::from_str(&line).expect("a written record can be read");
    assert_eq!(kept, bounce.message, "{line}");

    let event = Event {
        metadata: bounce.message.metadata.clone(),
        ..Event::about(
            EventKind::MessageDropped,
            bounce.job_id().key(),
            &Destination::own(&bounce.recipient),
        )
    };
    let entry = serde_json::from_str::<Vec<Value>>(&format!("[{}]", event.line()));
    assert!(
        entry.is_ok(),
        "a journal entry with the metadata can be read: {entry:?}"
    );
}

/// Checks the properties of every refusal: it has a reason, within bounds.
pub(crate) fn check_refusal(refusal: &Refusal) {
    assert!(!refusal.reason.is_empty() && refusal.to_wire()["answer"] == "refused");
    let parts = [&refusal.field, &refusal.value];
    assert!(
        parts
            .into_iter()
            .flatten()
            .all(|part| part.chars().count() <= 80),
        "{refusal:?}"
    );
}
