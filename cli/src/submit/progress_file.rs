//! How far a submission has come, kept beside its file, so that one that was cut short can go on.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

/// How much of the input is compared to know it again.
const HEAD: u64 = 4 << 10;

/// What has been answered so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    /// All lines up to this one.
    pub(super) line: u64,
    /// How many bounces got which answer.
    pub(super) answers: BTreeMap<String, u64>,
    /// What the input starts with, as a hash.
    head: String,
}

impl Done {
    /// Counts one answer.
    pub(super) fn count(&mut self, answer: &str) {
        *self.answers.entry(answer.to_owned()).or_default() += 1;
    }
}

/// The file that keeps it.
#[derive(Debug)]
pub(super) struct ProgressFile {
    path: PathBuf,
}

impl ProgressFile {
    /// The one that belongs to an input.
    pub(super) fn beside(input: &Path) -> Self {
        let mut path = input.as_os_str().to_owned();
        path.push(".progress");
        Self { path: path.into() }
    }

    /// Where a submission of `input` starts: at its beginning, or where an earlier one ended.
    ///
    /// # Errors
    /// Where an earlier one was cut short and nobody said what to do, or the input is another one
    /// by now.
    pub(super) fn start(&self, input: &Path, resume: bool) -> Result<Done> {
        let head = head_of(input).with_context(|| format!("cannot read {}", input.display()))?;
        let path = self.path.display();
        let kept = match fs::read_to_string(&self.path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                return Ok(Done {
                    head,
                    ..Done::default()
                });
            }
            kept => kept.with_context(|| format!("cannot read {path}"))?,
        };
        if !resume {
            bail!(
                "an earlier run was cut short: go on with --resume, or remove {path} to start anew"
            );
        }
        let done: Done = serde_json::from_str(&kept).with_context(|| {
            format!("{path} is not understood; remove it to start anew, which does no harm")
        })?;
        if done.head != head {
            bail!(
                "{} starts otherwise than it did; remove {path} to start anew",
                input.display()
            );
        }
        Ok(done)
    }

    /// Keeps it, at once or not at all.
    pub(super) fn keep(&self, done: &Done) -> Result<()> {
        let folder = self
            .path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let write = || -> io::Result<()> {
            let mut file = NamedTempFile::new_in(folder)?;
            file.write_all(&serde_json::to_vec(done)?)?;
            file.persist(&self.path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// There is nothing left to go on with.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn head_of(input: &Path) -> io::Result<String> {
    let mut head = Vec::new();
    fs::File::open(input)?.take(HEAD).read_to_end(&mut head)?;
    // A file that is still written to may have grown beyond the head since.
    let line = head
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(head.len(), |end| end + 1);
    Ok(format!(
        "{:016x}",
        xxhash_rust::xxh3::xxh3_64(&head[..line])
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_cut_short_goes_on_only_when_told_and_only_with_the_same_input() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("bounces.ndjson");
        fs::write(&input, "one\ntwo\n").unwrap();
        let file = ProgressFile::beside(&input);
        let mut done = file.start(&input, false).unwrap();
        assert_eq!(
            (done.line, file.start(&input, true).unwrap()),
            (0, done.clone()),
            "there is nothing to go on with"
        );

        done.line = 2;
        done.count("scheduled");
        file.keep(&done).unwrap();
        assert!(
            file.start(&input, false)
                .unwrap_err()
                .to_string()
                .contains("--resume")
        );
        assert_eq!(file.start(&input, true).unwrap(), done);
        fs::write(&input, "one\ntwo\nthree\n").unwrap();
        assert_eq!(file.start(&input, true).unwrap(), done, "it has grown");
        fs::write(&input, "1\n2\n").unwrap();
        assert!(
            file.start(&input, true)
                .unwrap_err()
                .to_string()
                .contains("starts otherwise")
        );
        file.remove();
        assert_eq!(file.start(&input, false).unwrap().line, 0);
    }
}
