//! Reads the lines of a file or of standard input, and collects their bounces into batches.

use std::io::{self, Read};
use std::mem;

use scheduler::intake::lines::{Line, Lines, Numbered};
use scheduler::intake::maillog::LogReader;

/// About how many bounces one request contains: few enough for a quick answer, many enough to be
/// efficient.
const BATCH: usize = 2_000;

/// About how many bytes one request has.
const BATCH_BYTES: usize = 4 << 20;

/// The longest line that is read. A scheduler has its own limit, `scheduler.line_max`.
const LINE_MAX: usize = 16 << 20;

/// How many bytes are read at once.
const CHUNK: usize = 256 << 10;

/// One bounce to submit.
#[derive(Debug)]
pub(super) struct Item {
    /// The number of its line.
    pub(super) line: u64,
    /// The line, unchanged.
    pub(super) raw: Vec<u8>,
    /// The bounce as it is sent, or the reason why the line is refused.
    pub(super) bounce: Result<Vec<u8>, String>,
}

/// Bounces that are sent together.
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
    /// Turns log lines into bounces. `None` if each line is a bounce already.
    reader: Option<Box<dyn LogReader>>,
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
    pub(super) fn new(source: R, reader: Option<Box<dyn LogReader>>, done: u64) -> Self {
        Self {
            source,
            reader,
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
            // If the input comes slowly, bounces are sent before the batch is full.
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
                return vec![Item {
                    line,
                    raw: Vec::new(),
                    bounce: Err(reason),
                }];
            }
        };
        let Some(reader) = &mut self.reader else {
            let bounce = Ok(raw.trim_ascii().to_vec());
            return vec![Item { line, raw, bounce }];
        };
        match reader.bounces(String::from_utf8_lossy(&raw).trim_end_matches('\r')) {
            Ok(bounces) => bounces
                .into_iter()
                .map(|bounce| Item {
                    line,
                    raw: raw.clone(),
                    bounce: Ok(bounce.to_string().into_bytes()),
                })
                .collect(),
            Err(reason) => vec![Item {
                line,
                raw,
                bounce: Err(reason),
            }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(text: &str, done: u64) -> Vec<(u64, String)> {
        let mut input = Input::new(text.as_bytes(), None, done);
        let mut found = Vec::new();
        while let Some(batch) = input.next().unwrap() {
            assert!(batch.items.len() <= BATCH + text.len());
            found.extend(
                batch
                    .items
                    .into_iter()
                    .map(|item| (item.line, String::from_utf8(item.bounce.unwrap()).unwrap())),
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
