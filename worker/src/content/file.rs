//! Content in files under the configured roots.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use domain::outcome::Side;
use system::whose_fault::{Cause, file_error};
use tokio::fs::{self, File};
use tokio::io::AsyncReadExt;

use super::error::{ContentError, sort};

/// A file that may be read.
pub(super) struct Found {
    path: PathBuf,
    /// Its name, and what changes where it is written anew.
    pub(super) key: String,
    /// Its size in bytes, when it was found.
    pub(super) size: usize,
}

/// Looks a file up, and refuses one that lies elsewhere, is no plain file, or is larger than `max`
/// bytes.
pub(super) async fn find(path: &str, roots: &[PathBuf], max: usize) -> Result<Found, ContentError> {
    // Both sides are resolved, so that neither `..` nor a link leads out of the roots.
    // The roots come first: where one is not mounted, nothing can be said of the files below it.
    let mut resolved_roots = Vec::with_capacity(roots.len());
    for root in roots {
        let resolved = fs::canonicalize(root).await;
        resolved_roots.push(resolved.map_err(|err| root_error(root, &err))?);
    }
    let resolved = fs::canonicalize(path).await.map_err(|err| sort(&err))?;
    if !resolved_roots.iter().any(|root| resolved.starts_with(root)) {
        return Err(ContentError::Missing(
            "the content's file lies outside content.roots",
        ));
    }
    let about = fs::metadata(&resolved).await.map_err(|err| sort(&err))?;
    if !about.is_file() {
        return Err(ContentError::Missing(
            "the content's file is not a plain file",
        ));
    }
    if about.len() > max as u64 {
        return Err(ContentError::Missing(
            "the content's file is larger than content.max",
        ));
    }
    let key = format!(
        "file:{}:{}:{}:{}:{}",
        resolved.display(),
        about.ino(),
        about.len(),
        about.mtime(),
        about.mtime_nsec()
    );
    Ok(Found {
        path: resolved,
        key,
        size: about.len() as usize,
    })
}

/// A root is ours, so all that is wrong with it is too.
fn root_error(root: &Path, err: &io::Error) -> ContentError {
    let cause = Cause {
        side: Side::Ours,
        advice: "check content.roots, and that they are mounted",
        ..file_error(err)
    };
    ContentError::by(cause, &format!("{}: {err}", root.display()))
}

impl Found {
    /// Reads it, and never more than it had when it was found: what has grown since is read as
    /// another file.
    pub(super) async fn read(&self) -> Result<Vec<u8>, ContentError> {
        let mut content = Vec::with_capacity(self.size);
        let file = File::open(&self.path).await.map_err(|err| sort(&err))?;
        let read = file
            .take(self.size as u64 + 1)
            .read_to_end(&mut content)
            .await
            .map_err(|err| sort(&err))?;
        if read > self.size {
            return Err(ContentError::unread(
                "the content's file was written while it was read",
            ));
        }
        Ok(content)
    }
}
