//! Keys, passwords and tokens of the configuration. Each can be in the configuration itself or in a
//! separate file. They are never shown.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use crate::files::read_bytes;
use crate::section::Section;

/// A secret. Its `Debug` does not show it, and it has no `Display`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Makes a secret of these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes of the secret. Compare them or compute with them, but never show them.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text. Bytes that are not UTF-8 are replaced.
    pub fn reveal_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// Whether the secret is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a secret, and returns the key that it came from. It is the value of `key`, or the
    /// content of the file that `key_file` names, without its final line end. Both keys at once
    /// are a fault, and so is a file that cannot be read.
    pub fn read(
        section: &mut Section<'_, '_>,
        [key, key_file]: [&'static str; 2],
    ) -> Option<(&'static str, Self)> {
        if section.has(key) && section.has(key_file) {
            section.fault(
                key_file,
                format!("is set together with {key}; keep one of them"),
            );
        }
        let in_place = section
            .text(key)
            .map(|text| (key, text.as_bytes().to_vec()));
        let in_file =
            read_file(section, key_file).map(|bytes| (key_file, without_line_end(&bytes).to_vec()));
        let (named, bytes) = in_file.or(in_place)?;
        Some((named, Self(bytes)))
    }
}

/// Removes one line end, which editors and `echo` add at the end of a file. White space before it
/// stays, because it may belong to the secret.
pub fn without_line_end(bytes: &[u8]) -> &[u8] {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Returns the content of the file that `key` names. A file that cannot be read is a fault.
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
