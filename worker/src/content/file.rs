//! Content in files under the configured roots.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use domain::outcome::Side;
use system::whose_fault::{Cause, file_error};
use tokio::fs::{self, File};
use tokio::io::AsyncReadExt;

use super::error::{ContentError, classify_error};

/// A file that may be read.
pub(super) struct Found {
    path: PathBuf,
    /// Its key in the cache: its path, and attributes that change when the file is written.
    pub(super) key: String,
    /// Its size in bytes, when it was found.
    pub(super) size: usize,
}

/// Finds a file. It is an error if the file is outside the roots, is not a regular file, or is
/// larger than `max` bytes.
pub(super) async fn find(path: &str, roots: &[PathBuf], max: usize) -> Result<Found, ContentError> {
    // Roots and path are resolved, so that neither `..` nor a link leads out of the roots. The
    // roots are resolved first: if one is not mounted, it is unknown whether the files below it
    // exist.
    let mut resolved_roots = Vec::with_capacity(roots.len());
    for root in roots {
        let resolved = fs::canonicalize(root).await;
        resolved_roots.push(resolved.map_err(|err| root_error(root, &err))?);
    }
    let resolved = fs::canonicalize(path)
        .await
        .map_err(|err| classify_error(&err))?;
    if !resolved_roots.iter().any(|root| resolved.starts_with(root)) {
        return Err(ContentError::Missing(
            "the content's file is outside content.roots",
        ));
    }
    let metadata = fs::metadata(&resolved)
        .await
        .map_err(|err| classify_error(&err))?;
    if !metadata.is_file() {
        return Err(ContentError::Missing(
            "the content's file is not a regular file",
        ));
    }
    if metadata.len() > max as u64 {
        return Err(ContentError::Missing(
            "the content's file is larger than content.max",
        ));
    }
    let key = format!(
        "file:{}:{}:{}:{}:{}",
        resolved.display(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    Ok(Found {
        path: resolved,
        key,
        size: metadata.len() as usize,
    })
}

/// Returns the error for a root that cannot be read. The roots belong to us, so every failure is on
/// our side.
fn root_error(root: &Path, err: &io::Error) -> ContentError {
    let cause = Cause {
        side: Side::Ours,
        advice: "check content.roots and that they are mounted",
        ..file_error(err)
    };
    ContentError::caused_by(cause, &format!("{}: {err}", root.display()))
}

impl Found {
    /// Reads the file. It is an error if the file has grown since it was found.
    pub(super) async fn read(&self) -> Result<Vec<u8>, ContentError> {
        let mut content = Vec::with_capacity(self.size);
        let file = File::open(&self.path)
            .await
            .map_err(|err| classify_error(&err))?;
        let read = file
            .take(self.size as u64 + 1)
            .read_to_end(&mut content)
            .await
            .map_err(|err| classify_error(&err))?;
        if read > self.size {
            return Err(ContentError::unread(
                "the content's file was changed while it was read",
            ));
        }
        Ok(content)
    }
}
