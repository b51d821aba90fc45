//! Keeps the lines that were refused in a file of their own, unchanged.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use super::input::Item;
use crate::api::text;

/// How many refused lines, and how many lines with warnings, are shown with their reason. The file
/// of refused lines contains all of them.
pub(super) const SHOWN: u64 = 5;

/// The file to which refused lines are written, unchanged. After they are corrected, that file can
/// be submitted.
pub(super) struct RefusedLines {
    pub(super) path: PathBuf,
    append: bool,
    file: Option<File>,
    /// How long the file is, in bytes.
    length: u64,
    pub(super) count: u64,
}

impl RefusedLines {
    /// The file at `path`. If `append`, it keeps the lines of an earlier run.
    pub(super) fn new(path: PathBuf, append: bool) -> Self {
        Self {
            path,
            append,
            file: None,
            length: 0,
            count: 0,
        }
    }

    /// Writes a line to the file. The first few are also printed, with the reason in the answer.
    pub(super) fn add(&mut self, item: &Item, answer: &Value) -> Result<()> {
        let path = self.path.display();
        if self.file.is_none() {
            let opened = File::options()
                .create(true)
                .write(true)
                .append(self.append)
                .truncate(!self.append)
                .open(&self.path)
                .with_context(|| {
                    format!("cannot write {path}; name another file with --refused")
                })?;
            self.length = opened.metadata()?.len();
            self.file = Some(opened);
        }
        let file = self.file.as_mut().expect("it was opened");
        let line = [&item.raw[..], b"\n"].concat();
        if let Err(err) = file.write_all(&line) {
            // Removes what was written of the line, because the next line would continue it.
            let _ = file.set_len(self.length);
            return Err(err).with_context(|| {
                format!("cannot write {path}; free some space, or name another file with --refused")
            });
        }
        self.length += line.len() as u64;
        self.count += 1;
        if self.count <= SHOWN {
            let field = answer["field"]
                .as_str()
                .map(|field| format!("{field}: "))
                .unwrap_or_default();
            eprintln!("line {}: {field}{}", item.line, text(&answer["reason"]));
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| Ok(file.flush()?))
    }
}
