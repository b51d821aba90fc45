//! Splits a stream of bytes into lines, in constant memory: a line that is too long is reported,
//! but its bytes are not kept.

use bytes::{Buf, Bytes, BytesMut};

/// The mark that some programs write before UTF-8. It is no part of the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line of input, with its number. The first line is 1. Blank lines are counted, but left out.
pub type Numbered = (u64, Line);

/// The content of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Its bytes, without the line feed.
    Whole(Bytes),
    /// The line was longer than allowed. Its bytes are gone.
    TooLong,
}

impl Line {
    /// Returns how many bytes of the line are kept.
    pub fn size(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::TooLong => 0,
        }
    }
}

/// Collects bytes and returns them as lines.
#[derive(Debug)]
pub struct Lines {
    held: BytesMut,
    max: usize,
    skipping: bool,
    number: u64,
}

impl Lines {
    /// Splits into lines of at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self {
            held: BytesMut::new(),
            max,
            skipping: false,
            number: 0,
        }
    }

    /// Adds bytes. Calls `line` with each line that they complete.
    pub fn push(&mut self, mut chunk: &[u8], mut line: impl FnMut(Numbered)) {
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            self.hold(&chunk[..end]);
            chunk.advance(end + 1);
            self.finish(&mut line);
        }
        self.hold(chunk);
    }

    /// Ends the input. Calls `line` with the last line if it had no line end.
    pub fn finish(&mut self, mut line: impl FnMut(Numbered)) {
        let mut held = self.held.split();
        self.number += 1;
        if self.number == 1 && held.starts_with(BYTE_ORDER_MARK) {
            held.advance(BYTE_ORDER_MARK.len());
        }
        if std::mem::take(&mut self.skipping) {
            line((self.number, Line::TooLong));
        } else if !held.iter().all(u8::is_ascii_whitespace) {
            line((self.number, Line::Whole(held.freeze())));
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.skipping || self.held.len() + bytes.len() > self.max {
            self.skipping = true;
            self.held.clear();
        } else {
            self.held.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        let mut found = Vec::new();
        let mut lines = Lines::new(8);
        lines.push(b"\xef\xbb\xbfone\n\xef\xbb\xbf\n", |line| found.push(line));
        let whole = |text: &'static [u8]| Line::Whole(Bytes::from_static(text));
        assert_eq!(found, [(1, whole(b"one")), (2, whole(b"\xef\xbb\xbf"))]);
    }

    #[test]
    fn lines_are_the_same_however_the_bytes_arrive() {
        let input = b"one\r\n\n  \nlonger than eight\n123456789\ntwo\nlast";
        for size in 1..=input.len() {
            let mut found = Vec::new();
            let mut lines = Lines::new(8);
            for chunk in input.chunks(size) {
                lines.push(chunk, |line| found.push(line));
            }
            lines.finish(|line| found.push(line));
            let whole = |text: &'static [u8]| Line::Whole(Bytes::from_static(text));
            assert_eq!(
                found,
                [
                    (1, whole(b"one\r")),
                    (4, Line::TooLong),
                    (5, Line::TooLong),
                    (6, whole(b"two")),
                    (7, whole(b"last"))
                ],
                "in chunks of {size}"
            );
            assert!(
                lines.held.capacity() < 64,
                "the bytes of a line that is too long are not kept"
            );
        }
    }
}
