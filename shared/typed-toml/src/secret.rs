//! Keys, passwords and tokens of the configuration: read in one way, be they in a file or in their
//! place, and never shown.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use crate::files::read_bytes;
use crate::section::Section;

/// A secret. Its `Debug` does not show it, and it has no `Display`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes bytes out of sight.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes themselves: to compare and to compute with, never to show.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }

    /// The same as text; what is no UTF-8 is replaced.
    pub fn reveal_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the secret that stands at `key` itself, or in the file that `key_file` names, without
    /// the line end that the file ends with; and tells which of the two keys it was. Both at once
    /// are a fault, and so is a file that cannot be read.
    pub fn read(
        section: &mut Section<'_, '_>,
        [key, key_file]: [&'static str; 2],
    ) -> Option<(&'static str, Self)> {
        if section.has(key) && section.has(key_file) {
            section.fault(key_file, format!("stands beside {key}; keep one of them"));
        }
        let held = section
            .text(key)
            .map(|text| (key, text.as_bytes().to_vec()));
        let filed =
            read_file(section, key_file).map(|bytes| (key_file, without_line_end(&bytes).to_vec()));
        let (named, bytes) = filed.or(held)?;
        Some((named, Self(bytes)))
    }
}

/// Editors and `echo` put a line end behind what a file holds; white space before it may be meant.
pub fn without_line_end(bytes: &[u8]) -> &[u8] {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// What is in the file that `key` names; a fault where it cannot be read.
pub fn read_file(section: &mut Section<'_, '_>, key: &'static str) -> Option<Vec<u8>> {
    let path = section.text(key)?;
    read_bytes(Path::new(path))
        .map_err(|why| section.fault(key, format!("\"{path}\" {why}")))
        .ok()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() {
            "Secret()"
        } else {
            "Secret(…)"
        })
    }
}
