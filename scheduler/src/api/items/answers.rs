//! The answers to a request of many lines, until it has been read to its end: in memory, and beyond
//! a bound in a temporary file. The files of all requests together are bounded too.

use std::env;
use std::fmt;
use std::io::{self, Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use futures::StreamExt;
use tempfile::{SpooledData, SpooledTempFile};
use tokio::fs::File;
use tokio_util::io::ReaderStream;

/// Room for answers in temporary files, of all requests together.
#[derive(Clone, Debug)]
pub struct AnswerRoom {
    max: usize,
    taken: Arc<AtomicUsize>,
}

/// A part of that room. It is free again when this is dropped.
#[derive(Debug)]
struct Part {
    room: AnswerRoom,
    bytes: usize,
}

/// The answers of one request.
#[derive(Debug)]
pub(super) struct Answers {
    spool: SpooledTempFile,
    in_memory: usize,
    length: usize,
    part: Part,
}

/// Why answers could not be kept.
#[derive(Debug)]
pub(super) enum NotKept {
    /// Those of all requests together are too many.
    NoRoom(usize),
    /// The temporary file fails.
    File(io::Error),
}

impl AnswerRoom {
    /// So many bytes.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            taken: Arc::default(),
        }
    }
}

impl Part {
    /// Takes more room.
    fn grow(&mut self, bytes: usize) -> Result<(), NotKept> {
        let AnswerRoom { max, taken } = &self.room;
        let fits = |before: usize| before.checked_add(bytes).filter(|after| after <= max);
        match taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => Err(NotKept::NoRoom(*max)),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Answers {
    /// None yet. Up to `in_memory` bytes need no file.
    pub(super) fn new(in_memory: usize, room: AnswerRoom) -> Self {
        Self {
            spool: SpooledTempFile::new(in_memory),
            in_memory,
            length: 0,
            part: Part { room, bytes: 0 },
        }
    }

    /// Keeps some more.
    pub(super) fn add(&mut self, lines: &[u8]) -> Result<(), NotKept> {
        self.length += lines.len();
        if self.length > self.in_memory {
            self.part.grow(self.length - self.part.bytes)?;
        }
        self.spool.write_all(lines).map_err(NotKept::File)
    }

    /// All of them, as the body of an answer.
    pub(super) fn into_body(mut self) -> Result<Body, NotKept> {
        self.spool.rewind().map_err(NotKept::File)?;
        let part = self.part;
        Ok(match self.spool.into_inner() {
            SpooledData::InMemory(cursor) => Body::from(cursor.into_inner()),
            SpooledData::OnDisk(file) => {
                let chunks = ReaderStream::new(File::from_std(file));
                // The file takes its room until the body is out.
                Body::from_stream(chunks.map(move |chunk| {
                    let _ = &part;
                    chunk
                }))
            }
        })
    }
}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let less = "or send fewer lines at a time";
        match self {
            Self::NoRoom(max) => write!(
                f,
                "the answers have no room: those of all requests together may take {max} bytes of temporary files \
                 (scheduler.answers_max); try again later, {less}"
            ),
            Self::File(err) => write!(
                f,
                "the answers could not be kept in a temporary file in {}: {err}; make room there, name another folder \
                 in TMPDIR, {less}",
                env::temp_dir().display()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_share_their_room_and_memory_takes_none() {
        let room = AnswerRoom::new(100);
        let (mut one, mut two) = (
            Answers::new(10, room.clone()),
            Answers::new(10, room.clone()),
        );
        one.add(&[b'x'; 10]).unwrap();
        assert_eq!(room.taken.load(Ordering::Relaxed), 0, "it is in memory");
        one.add(&[b'x'; 60]).unwrap();
        assert!(matches!(two.add(&[b'x'; 31]), Err(NotKept::NoRoom(100))));
        let body = one.into_body().unwrap();
        assert_eq!(
            room.taken.load(Ordering::Relaxed),
            70,
            "the file is there until it is sent"
        );
        drop((body, two));
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }
}
