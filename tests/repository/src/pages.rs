//! Pages that are made from the code and kept in the repository.

use std::{env, fs};

use crate::cargo::root;

/// If this variable is set, pages are written before they are compared.
const WRITE: &str = "REDELIVER_WRITE_PAGES";

/// Compares a page with what it should be. `source` is what it is made from.
///
/// # Panics
/// If the two differ.
pub(crate) fn compare(path: &str, page: &str, source: &str) {
    let file = root().join(path);
    if env::var_os(WRITE).is_some() {
        fs::write(&file, page).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == page,
        "{path} does not match {source}; write it with: make pages"
    );
}
