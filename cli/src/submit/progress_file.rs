//! Keeps the progress of a submission in a file next to its input, so that an interrupted
//! submission can be continued.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

/// How many bytes of the input are read at most to recognize it in a later run.
const HEAD: u64 = 4 << 10;

/// What has been answered so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    /// All lines up to this number are answered.
    pub(super) line: u64,
    /// The number of bounces and facts for each kind of answer.
    pub(super) answers: BTreeMap<String, u64>,
    /// How many of them were facts.
    #[serde(default)]
    pub(super) facts: u64,
    /// A hash of the first line of the input.
    head: String,
}

impl Done {
    /// Counts one answer, to a fact or to a bounce.
    pub(super) fn count(&mut self, answer: &str, is_fact: bool) {
        *self.answers.entry(answer.to_owned()).or_default() += 1;
        self.facts += u64::from(is_fact);
    }

    /// Returns how many bounces were answered.
    pub(super) fn bounces(&self) -> u64 {
        let all: u64 = self.answers.values().sum();
        all.saturating_sub(self.facts)
    }
}

/// The file that contains the progress.
#[derive(Debug)]
pub(super) struct ProgressFile {
    path: PathBuf,
}

impl ProgressFile {
    /// Returns the progress file of an input. Its path is that of the input with `.progress` added.
    pub(super) fn of(input: &Path) -> Self {
        let mut path = input.as_os_str().to_owned();
        path.push(".progress");
        Self { path: path.into() }
    }

    /// Returns what an earlier run has done, so that the submission of `input` starts after the
    /// lines that are answered already. Without an earlier run, nothing is done yet.
    ///
    /// # Errors
    /// If an earlier run was interrupted and `resume` is not set, or if the first line of the input
    /// has changed since then.
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
                "an earlier run was interrupted: continue it with --resume, \
                 or remove {path} to start from the beginning"
            );
        }
        let done: Done = serde_json::from_str(&kept).with_context(|| {
            format!(
                "{path} is not a progress file; remove it to start from the beginning, \
                 which does no harm"
            )
        })?;
        if done.head != head {
            bail!(
                "the first line of {} is not the same as in the earlier run; \
                 remove {path} to start from the beginning",
                input.display()
            );
        }
        Ok(done)
    }

    /// Writes the progress, atomically.
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

    /// Removes the file, after everything was submitted.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn head_of(input: &Path) -> io::Result<String> {
    let mut head = Vec::new();
    fs::File::open(input)?.take(HEAD).read_to_end(&mut head)?;
    // Only the first line is hashed, because a file that is still being written grows at its end.
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
    fn an_interrupted_run_continues_only_with_resume_and_only_with_the_same_input() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("bounces.ndjson");
        fs::write(&input, "one\ntwo\n").unwrap();
        let file = ProgressFile::of(&input);
        let mut done = file.start(&input, false).unwrap();
        assert_eq!(
            (done.line, file.start(&input, true).unwrap()),
            (0, done.clone()),
            "without an earlier run, --resume starts at the first line"
        );

        done.line = 2;
        done.count("scheduled", false);
        file.keep(&done).unwrap();
        assert!(
            file.start(&input, false)
                .unwrap_err()
                .to_string()
                .contains("--resume")
        );
        assert_eq!(file.start(&input, true).unwrap(), done);
        fs::write(&input, "one\ntwo\nthree\n").unwrap();
        assert_eq!(file.start(&input, true).unwrap(), done, "the input grew");
        fs::write(&input, "1\n2\n").unwrap();
        assert!(
            file.start(&input, true)
                .unwrap_err()
                .to_string()
                .contains("is not the same as in the earlier run")
        );
        file.remove();
        assert_eq!(file.start(&input, false).unwrap().line, 0);
    }
}
