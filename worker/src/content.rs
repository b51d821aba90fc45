//! The content of messages: read from where the platform left it, and made fit for the wire.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use shared::job::ContentRef;
use tokio::fs;

/// The largest file that is read as a message.
const FILE_MAX_BYTES: u64 = 64 << 20;

/// Why content could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It is not there, or is not ours to read: the message cannot be sent, now or later.
    #[error("{0}")]
    Missing(&'static str),
    /// Reading it failed; it may succeed later.
    #[error("content could not be read: {0}")]
    Unread(io::Error),
}

/// Reads content.
#[derive(Clone, Debug)]
pub struct Contents {
    roots: Vec<PathBuf>,
}

impl Contents {
    /// Content from these folders, and inline content.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self { roots }
    }

    /// The content, with CRLF line ends (RFC 5321, section 2.3.8).
    pub async fn read(&self, content: &ContentRef) -> Result<Bytes, ContentError> {
        let raw = match content {
            ContentRef::Inline(text) => text.as_bytes().to_vec(),
            ContentRef::File(path) => self.read_file(Path::new(path)).await?,
        };
        Ok(with_crlf(&raw).into())
    }

    async fn read_file(&self, path: &Path) -> Result<Vec<u8>, ContentError> {
        // Both sides are resolved, so that neither `..` nor a link leads out of the roots.
        let resolved = fs::canonicalize(path).await.map_err(sort)?;
        let mut allowed = false;
        for root in &self.roots {
            allowed |= fs::canonicalize(root).await.is_ok_and(|root| resolved.starts_with(root));
        }
        if !allowed {
            return Err(ContentError::Missing("the content's file lies outside content.roots"));
        }
        let about = fs::metadata(&resolved).await.map_err(sort)?;
        if !about.is_file() {
            return Err(ContentError::Missing("the content's file is not a plain file"));
        }
        if about.len() > FILE_MAX_BYTES {
            return Err(ContentError::Missing("the content's file is larger than a message may be"));
        }
        fs::read(&resolved).await.map_err(sort)
    }
}

/// Only trouble with the machine may pass; a wrong name or a forbidden file stays what it is.
fn sort(err: io::Error) -> ContentError {
    match err.kind() {
        io::ErrorKind::Interrupted
        | io::ErrorKind::OutOfMemory
        | io::ErrorKind::TimedOut
        | io::ErrorKind::StaleNetworkFileHandle
        | io::ErrorKind::ResourceBusy
        | io::ErrorKind::Other => ContentError::Unread(err),
        _ => ContentError::Missing("the content's file is not there, or not ours to read"),
    }
}

/// Makes every line end CRLF: bare CR and bare LF have no place in mail, and let a receiver see other lines than we do.
fn with_crlf(raw: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(raw.len() + raw.len() / 32);
    let mut bytes = raw.iter().peekable();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if(|next| **next == b'\n');
                wire.extend_from_slice(b"\r\n");
            }
            b'\n' => wire.extend_from_slice(b"\r\n"),
            other => wire.push(other),
        }
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_ends_with_crlf() {
        for (raw, wire) in [
            ("a\nb", "a\r\nb"),
            ("a\r\nb\r\n", "a\r\nb\r\n"),
            ("a\rb", "a\r\nb"),
            ("\n\r\n\r", "\r\n\r\n\r\n"),
            ("", ""),
        ] {
            assert_eq!(with_crlf(raw.as_bytes()), wire.as_bytes(), "{raw:?}");
        }
    }

    #[tokio::test]
    async fn files_are_read_under_the_roots_and_nowhere_else() {
        let folder = std::env::temp_dir().join(format!("redeliver-content-{}", std::process::id()));
        let root = folder.join("root");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("in.eml"), "Subject: x\n").unwrap();
        std::fs::write(folder.join("out.eml"), "Subject: y\n").unwrap();
        let contents = Contents::new(vec![root.clone()]);
        let read = |path: PathBuf| {
            let contents = contents.clone();
            async move { contents.read(&ContentRef::File(path.display().to_string())).await }
        };
        assert_eq!(&read(root.join("in.eml")).await.unwrap()[..], b"Subject: x\r\n");
        for outside in ["../out.eml", "nothing.eml", "."] {
            assert!(matches!(read(root.join(outside)).await, Err(ContentError::Missing(_))), "{outside}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
