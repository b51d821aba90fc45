//! The page of promises is made from the tests: the header of each module, and the name of each
//! test as a sentence. `make pages` writes it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cargo::root;
use crate::pages::compare;

const PAGE: &str = "docs/reference/promises.md";
const TESTS: &str = "tests/promises/src";

const INTRODUCTION: &str = "# Promises

This page lists what Redeliver promises.
Each sentence is the name of a test in `tests/promises`, which runs against real servers and peers.
`make pages` writes the page from the tests; `make check` compares the two.
";

#[test]
fn the_page_of_promises_matches_the_tests() {
    compare(PAGE, &page(), "the tests");
}

fn page() -> String {
    let folder = root().join(TESTS);
    let main = fs::read_to_string(folder.join("main.rs")).unwrap();
    let mut page = INTRODUCTION.to_owned();
    for module in main
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
    {
        section(&mut page, &folder.join(module), "##");
    }
    page
}

/// Writes the section of a module, and after it the sections of the modules below it. A module
/// without tests has no section.
fn section(page: &mut String, module: &Path, level: &str) {
    let text = fs::read_to_string(module.with_extension("rs")).unwrap();
    let title = module.file_name().unwrap().to_str().unwrap();
    let header: Vec<&str> = text
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(str::trim)
        .collect();
    let mut lines = String::new();
    for sentence in header.join(" ").split_inclusive(". ") {
        writeln!(lines, "{}", sentence.trim()).unwrap();
    }
    let tests = tests(&text);
    if !tests.is_empty() {
        let lines = lines.trim();
        writeln!(page, "\n{level} {}\n\n{lines}\n", capitalised(title)).unwrap();
    }
    for test in tests {
        writeln!(page, "- {}.", capitalised(test)).unwrap();
    }
    for below in modules_below(module) {
        section(page, &below, &format!("{level}#"));
    }
}

fn modules_below(module: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(module) else {
        return Vec::new();
    };
    let files = entries.map(|entry| entry.unwrap().path());
    let mut modules: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| path.with_extension(""))
        .collect();
    modules.sort();
    modules
}

/// The names of the tests in a file, in its order.
fn tests(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ") {
            if is_test {
                names.push(rest.split('(').next().unwrap_or_default());
            }
            is_test = false;
        }
    }
    names
}

/// A name as the start of a sentence: `a_lease_ends` is `A lease ends`.
fn capitalised(name: &str) -> String {
    let words = name.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[test]
fn the_names_of_tests_are_read_in_order_without_other_functions() {
    let text = "fn shared() {}\n#[tokio::test]\nasync fn b() {}\n#[test]\n#[ignore]\nfn a() {}\n";
    assert_eq!(tests(text), ["b", "a"]);
    assert_eq!(capitalised("a_lease_ends"), "A lease ends");
}
