//! Keeps the answers to a request of many lines until the request is read to its end: in memory,
//! and beyond a bound in a temporary file. The files of all requests together are bounded too.

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

/// The space for answers in temporary files, of all requests together. Clones share it.
#[derive(Clone, Debug)]
pub struct AnswerSpace {
    max: usize,
    used: Arc<AtomicUsize>,
}

/// The part of that space which one request uses. It is free again when this is dropped.
#[derive(Debug)]
struct UsedSpace {
    space: AnswerSpace,
    bytes: usize,
}

/// The answers of one request.
#[derive(Debug)]
pub(super) struct Answers {
    spool: SpooledTempFile,
    in_memory: usize,
    length: usize,
    used: UsedSpace,
}

/// Why answers cannot be kept.
#[derive(Debug)]
pub(super) enum NotKept {
    /// The answers of all requests together need more than this many bytes.
    NoSpace(usize),
    /// An operation on the temporary file failed.
    File(io::Error),
}

impl AnswerSpace {
    /// Verifies that temporary files can be made and written.
    ///
    /// # Errors
    /// If not. The text names the folder.
    pub fn check_folder() -> Result<(), String> {
        let wrote = tempfile::tempfile().and_then(|mut file| file.write_all(b"x"));
        wrote.map_err(|err| format!("{}: {err}", env::temp_dir().display()))
    }

    /// A space of `max` bytes.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            used: Arc::default(),
        }
    }
}

impl UsedSpace {
    /// Uses more of the space.
    fn grow(&mut self, bytes: usize) -> Result<(), NotKept> {
        let AnswerSpace { max, used } = &self.space;
        let fits = |before: usize| before.checked_add(bytes).filter(|after| after <= max);
        match used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => Err(NotKept::NoSpace(*max)),
        }
    }
}

impl Drop for UsedSpace {
    fn drop(&mut self) {
        self.space.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Answers {
    /// No answers yet. Up to `in_memory` bytes are kept without a file.
    pub(super) fn new(in_memory: usize, space: AnswerSpace) -> Self {
        Self {
            spool: SpooledTempFile::new(in_memory),
            in_memory,
            length: 0,
            used: UsedSpace { space, bytes: 0 },
        }
    }

    /// Keeps more answers.
    pub(super) fn add(&mut self, lines: &[u8]) -> Result<(), NotKept> {
        self.length += lines.len();
        if self.length > self.in_memory {
            self.used.grow(self.length - self.used.bytes)?;
        }
        self.spool.write_all(lines).map_err(NotKept::File)
    }

    /// Returns all answers as the body of a response.
    pub(super) fn into_body(mut self) -> Result<Body, NotKept> {
        self.spool.rewind().map_err(NotKept::File)?;
        let used = self.used;
        Ok(match self.spool.into_inner() {
            SpooledData::InMemory(cursor) => Body::from(cursor.into_inner()),
            SpooledData::OnDisk(file) => {
                let chunks = ReaderStream::new(File::from_std(file));
                // The file uses its space until the body is sent.
                Body::from_stream(chunks.map(move |chunk| {
                    let _ = &used;
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
            Self::NoSpace(max) => write!(
                f,
                "the answers have no room: \
                 the answers of all requests together may use {max} bytes of temporary files \
                 (scheduler.answers_max); try again later, {less}"
            ),
            Self::File(err) => write!(
                f,
                "the answers could not be kept in a temporary file in {}: {err}; \
                 make room there, set another folder in TMPDIR, {less}",
                env::temp_dir().display()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_in_files_count_towards_the_shared_bound() {
        let space = AnswerSpace::new(100);
        let (mut one, mut two) = (
            Answers::new(10, space.clone()),
            Answers::new(10, space.clone()),
        );
        one.add(&[b'x'; 10]).unwrap();
        assert_eq!(space.used.load(Ordering::Relaxed), 0, "it is in memory");
        one.add(&[b'x'; 60]).unwrap();
        assert!(matches!(two.add(&[b'x'; 31]), Err(NotKept::NoSpace(100))));
        let body = one.into_body().unwrap();
        assert_eq!(
            space.used.load(Ordering::Relaxed),
            70,
            "the file exists until it is sent"
        );
        drop((body, two));
        assert_eq!(space.used.load(Ordering::Relaxed), 0);
    }
}
