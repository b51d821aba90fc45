//! Reads the lines of a file or of standard input, and collects their bounces and facts into
//! batches.

use std::io::{self, Read};
use std::mem;

use domain::account::Account;
use scheduler::intake::lines::{Line, Lines, Numbered};
use scheduler::intake::maillog::{LogItem, LogReader};
use serde_json::Value;

use super::line::{Kind, read_line};

/// About how many items one request contains: few enough for a quick answer, many enough to be
/// efficient.
const BATCH: usize = 2_000;

/// About how many bytes one request has.
const BATCH_BYTES: usize = 4 << 20;

/// The longest line that is read. A scheduler has its own limit, `scheduler.line_max`.
const LINE_MAX: usize = 16 << 20;

/// How many bytes are read at once.
const CHUNK: usize = 256 << 10;

/// One bounce or fact to submit.
#[derive(Debug)]
pub(super) struct Item {
    /// The number of its line.
    pub(super) line: u64,
    /// The line, unchanged.
    pub(super) raw: Vec<u8>,
    /// What it is. A line that is refused counts as a bounce.
    pub(super) kind: Kind,
    /// The item as it is sent, or the reason why the line is refused.
    pub(super) body: Result<Vec<u8>, String>,
}

/// Items that are sent together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    /// The last line that was read for this batch.
    pub(super) last_line: u64,
    /// How many bytes of the input had been read by then.
    pub(super) read: u64,
}

/// Reads batches from a source.
pub(super) struct Input<R> {
    source: R,
    /// Turns log lines into items. `None` if each line is an item already.
    reader: Option<Box<dyn LogReader>>,
    /// The account of items that name none.
    account: Option<Account>,
    lines: Lines,
    /// The lines up to this number were answered in an earlier run.
    done: u64,
    /// Lines that were found in the chunk that was read last.
    found: Vec<Numbered>,
    /// How many bytes were read.
    read: u64,
    ended: bool,
}

impl<R: Read> Input<R> {
    pub(super) fn new(
        source: R,
        reader: Option<Box<dyn LogReader>>,
        account: Option<Account>,
        done: u64,
    ) -> Self {
        Self {
            source,
            reader,
            account,
            lines: Lines::new(LINE_MAX),
            done,
            found: Vec::new(),
            read: 0,
            ended: false,
        }
    }

    /// Reads the next batch. Returns `None` at the end of the input. A batch may have no items, but
    /// it always contains how far the input was read.
    pub(super) fn next(&mut self) -> io::Result<Option<Batch>> {
        if self.ended {
            return Ok(None);
        }
        let mut batch = Batch::default();
        let mut bytes = 0;
        let mut chunk = vec![0; CHUNK];
        while batch.items.len() < BATCH && bytes < BATCH_BYTES {
            let size = match self.source.read(&mut chunk) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                size => size?,
            };
            if size == 0 {
                self.ended = true;
                self.lines.finish(|line| self.found.push(line));
            } else {
                self.read += size as u64;
                self.lines
                    .push(&chunk[..size], |line| self.found.push(line));
            }
            for (number, line) in mem::take(&mut self.found) {
                let size = line.size();
                batch.last_line = number;
                let items = self.items(number, line);
                if number > self.done && !items.is_empty() {
                    bytes += size;
                    batch.items.extend(items);
                }
            }
            batch.read = self.read;
            // If the input comes slowly, items are sent before the batch is full.
            if self.ended || (size < CHUNK && !batch.items.is_empty()) {
                break;
            }
        }
        Ok(Some(batch))
    }

    fn items(&mut self, line: u64, text: Line) -> Vec<Item> {
        let raw = match text {
            Line::Whole(bytes) => bytes.to_vec(),
            Line::TooLong => {
                let reason = format!("the line is longer than {LINE_MAX} bytes");
                return vec![Item::refused(line, Vec::new(), reason)];
            }
        };
        let account = self.account.as_ref();
        let Some(reader) = &mut self.reader else {
            let (kind, body) = read_line(&raw, account);
            let body = Ok(body);
            return vec![Item {
                line,
                raw,
                kind,
                body,
            }];
        };
        match reader.items(String::from_utf8_lossy(&raw).trim_end_matches('\r')) {
            Ok(items) => items
                .into_iter()
                .map(|item| Item::of_log(line, &raw, item, account))
                .collect(),
            Err(reason) => vec![Item::refused(line, raw, reason)],
        }
    }
}

impl Item {
    fn refused(line: u64, raw: Vec<u8>, reason: String) -> Self {
        Self {
            line,
            raw,
            kind: Kind::Bounce,
            body: Err(reason),
        }
    }

    /// An item of a log. Logs name no account.
    fn of_log(line: u64, raw: &[u8], item: LogItem, account: Option<&Account>) -> Self {
        let (kind, mut item) = match item {
            LogItem::Bounce(item) => (Kind::Bounce, item),
            LogItem::Fact(item) => (Kind::Fact, item),
        };
        if let Some(account) = account {
            item["account"] = Value::from(account.as_str());
        }
        Self {
            line,
            raw: raw.to_vec(),
            kind,
            body: Ok(item.to_string().into_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(text: &str, done: u64) -> Vec<(u64, String)> {
        let mut input = Input::new(text.as_bytes(), None, None, done);
        let mut found = Vec::new();
        while let Some(batch) = input.next().unwrap() {
            assert!(batch.items.len() <= BATCH + text.len());
            found.extend(
                batch
                    .items
                    .into_iter()
                    .map(|item| (item.line, String::from_utf8(item.body.unwrap()).unwrap())),
            );
        }
        found
    }

    #[test]
    fn lines_keep_their_numbers_and_lines_already_done_are_skipped() {
        let text = "one\n\ntwo\r\nthree";
        let all = [
            (1, "one".to_owned()),
            (3, "two".to_owned()),
            (4, "three".to_owned()),
        ];
        assert_eq!(lines_of(text, 0), all);
        assert_eq!(lines_of(text, 3), all[2..]);
        assert_eq!(lines_of(text, 4), []);
        assert_eq!(lines_of("", 0), []);
    }
}
