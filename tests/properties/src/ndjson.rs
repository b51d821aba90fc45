//! NDJSON and log lines: the lines are the same however the bytes arrive, each has one answer, and
//! what is taken in can be read from its record.

use std::collections::HashSet;

use chrono::FixedOffset;
use domain::bounce::Bounce;
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::event::{Event, EventKind};
use domain::job::Message;
use scheduler::intake::json::{self, Reader, Refusal};
use scheduler::intake::lines::{Line, Lines, Numbered};
use scheduler::intake::maillog::LogReader;
use scheduler::intake::maillog::kumomta::Kumomta;
use scheduler::intake::maillog::postfix::Postfix;
use serde_json::Value;

use crate::address::hold_of_address;
use crate::is_one_line;
use crate::reply::{hold_of_reply, hold_together};

/// The longest line here, in bytes.
const LINE_MAX: usize = 4 << 10;

/// The most inline content here, in bytes.
const INLINE_MAX: usize = 1 << 10;

/// When all this happens.
const NOW: Timestamp = Timestamp::from_ms(1_767_312_000_000);

/// Reads any bytes as lines. The first byte says in how large pieces they arrive.
///
/// # Panics
/// Where something does not hold of a line, or of what is made of it.
pub fn hold_of(bytes: &[u8]) {
    let Some((size, body)) = bytes.split_first() else {
        return;
    };
    let lines = arriving(body, body.len().max(1));
    assert_eq!(
        arriving(body, usize::from(*size).max(1)),
        lines,
        "in pieces of {size}"
    );

    let numbers: HashSet<u64> = lines.iter().map(|(number, _)| *number).collect();
    assert_eq!(
        numbers.len(),
        lines.len(),
        "each line has a number of its own"
    );
    let breaks = body.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert!(
        lines
            .iter()
            .all(|(number, line)| (1..=breaks + 1).contains(number) && line.size() <= LINE_MAX)
    );

    for (_, line) in &lines {
        if let Line::Whole(line) = line {
            hold_of_line(line);
        }
    }
}

/// Reads any bytes as one line: of NDJSON, and of the logs that `redeliver submit` reads.
///
/// # Panics
/// Where something does not hold of what is made of it.
pub fn hold_of_line(line: &[u8]) {
    let judge = |item| match json::read(item, NOW, INLINE_MAX) {
        Ok(bounce) => hold_of_bounce(&bounce),
        Err(refusal) => hold_of_refusal(&refusal),
    };
    if let Ok(item) = serde_json::from_slice::<Value>(line) {
        let reader = Reader::new(INLINE_MAX, ["relay".to_owned()].into());
        let (at_once, piecewise) = (reader.read_text(line, NOW), reader.read(item.clone(), NOW));
        if entries_of_text(line) == entries_of_value(&item) {
            assert_eq!(
                format!("{at_once:?}"),
                format!("{piecewise:?}"),
                "a line is read at once as it is piece by piece"
            );
        } else {
            assert!(
                at_once.is_err(),
                "an item in which a key is repeated is refused: {at_once:?}"
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
    let told = [Kumomta.bounces(text), postfix.bounces(text)];
    told.into_iter().flatten().flatten().for_each(judge);
}

/// How many keys the objects of a JSON text have, with those that are repeated: each has a colon
/// outside of strings.
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
fn arriving(bytes: &[u8], size: usize) -> Vec<Numbered> {
    let mut found = Vec::new();
    let mut lines = Lines::new(LINE_MAX);
    bytes
        .chunks(size)
        .for_each(|chunk| lines.push(chunk, |line| found.push(line)));
    lines.finish(|line| found.push(line));
    found
}

/// What holds of every bounce that comes in.
pub(crate) fn hold_of_bounce(bounce: &Bounce) {
    hold_of_address(&bounce.recipient);
    hold_of_reply(&bounce.reply);
    hold_together(&bounce.reply);
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
    let kept: Message = serde_json::from_str(&line).expect("what was written is read");
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
        "the journal can be read with its metadata in it: {entry:?}"
    );
}

/// What holds of every refusal: it says why, within bounds.
pub(crate) fn hold_of_refusal(refusal: &Refusal) {
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
