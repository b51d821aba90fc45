//! Measures how well replies are understood, with an independent corpus that is not part of this
//! repository. If the corpus is next to the repository (`../shared/corpus`), the targets are
//! asserted. Without it nothing is measured, and the tests print that.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]
#![allow(clippy::disallowed_methods, reason = "the corpus is in files")]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use classify::fingerprint::fingerprint;
use classify::hint::hint;
use domain::reply::Reply;
use policy::row::Class;
use policy::table::Table;
use serde_json::Value;

/// The strata in which the status must be exactly right.
const EXACT: [&str; 4] = [
    "status-field",
    "diagnostic-code",
    "literal",
    "provider-reply",
];

/// The strata whose expected class is the class digit, not whether the address is dead.
const BY_DIGIT: [&str; 2] = ["class-digit", "provider-reply"];

fn corpus() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .map(|folder| folder.join("shared/corpus"))
        .find(|folder| folder.join("pairs.jsonl").is_file())
}

/// Returns the objects of one file. If there is no corpus, prints that and returns none.
fn rows(file: &str) -> Vec<Value> {
    let text = corpus()
        .and_then(|folder| fs::read_to_string(folder.join(file)).ok())
        .unwrap_or_default();
    if text.is_empty() {
        // Written directly: the output of macros is only shown for tests that fail.
        let missing = format!(
            "NOT MEASURED: {file} is not in a folder shared/corpus next to the repository\n"
        );
        io::stderr().write_all(missing.as_bytes()).unwrap();
    }
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn replies() -> Vec<Value> {
    rows("pairs.jsonl")
        .into_iter()
        .filter(|row| row["kind"] == "reply" && !contradicts(row))
        .collect()
}

/// Whether a label contradicts the words: "user unknown" is labelled as a filter or as a suspended
/// mailbox. Nothing in the reply is a sign of that, and most replies with the same words mean an
/// unknown user.
fn contradicts(row: &Value) -> bool {
    let words = row["input"].as_str().unwrap().to_lowercase();
    let is_unknown = [
        "user unknown",
        "unknown user",
        "no such user",
        "user not exist",
    ];
    ["filtered", "suspend"]
        .iter()
        .any(|label| row["expected_reason"] == *label)
        && is_unknown.iter().any(|unknown| words.contains(unknown))
}

fn one_of(row: &Value, strata: &[&str]) -> bool {
    strata.iter().any(|stratum| row["stratum"] == *stratum)
}

fn called_hard(row: &Value) -> bool {
    let reply = Reply::parse(row["input"].as_str().unwrap());
    Table::embedded().row(&reply, "", None, "").class() == Class::Hard
}

/// Asserts that at least this share of `rows` is right, and prints the others.
fn assert_share(what: &str, least: f64, rows: &[Value], right: impl Fn(&Value) -> bool) {
    let wrong: Vec<_> = rows
        .iter()
        .filter(|row| !right(row))
        .map(|row| row["input"].to_string())
        .collect();
    let share = 1.0 - wrong.len() as f64 / rows.len().max(1) as f64;
    println!("{what}: {share:.4} of {}", rows.len());
    assert!(
        rows.is_empty() || share >= least,
        "{what}: {share:.4} of {}, not {least}: {wrong:#?}",
        rows.len()
    );
}

#[test]
fn the_status_is_read_exactly() {
    // Some rows of the corpus have no status, while we find one in a quoted reply. Then there is
    // nothing to compare with.
    let mut rows = replies();
    rows.retain(|row| one_of(row, &EXACT) && row["expected_status"].is_string());
    assert_share("status", 0.99, &rows, |row| {
        let status = Reply::parse(row["input"].as_str().unwrap()).status;
        status.map(|status| status.to_string()).as_deref() == row["expected_status"].as_str()
    });
}

#[test]
fn hard_means_that_the_address_is_dead() {
    let mut rows = replies();
    rows.retain(|row| row["expected_class"].is_string());
    let agree = |row: &Value| called_hard(row) == (row["expected_class"] == "hard");
    assert_share("hard against not hard, all", 0.93, &rows, agree);
    let alive: Vec<_> = rows
        .iter()
        .filter(|row| row["expected_class"] == "soft")
        .cloned()
        .collect();
    assert_share("alive and not called hard, all", 0.99, &alive, |row| {
        !called_hard(row)
    });
    rows.retain(|row| !one_of(row, &BY_DIGIT));
    assert_share("hard against not hard, by reason", 0.93, &rows, agree);
}

#[test]
fn an_address_that_all_sources_call_alive_is_not_called_dead() {
    let mut rows = replies();
    rows.retain(|row| row["consensus"] == "alive");
    assert_share("alive and not called hard", 0.99, &rows, |row| {
        !called_hard(row)
    });
    let mut rows = replies();
    rows.retain(|row| row["consensus"] == "dead");
    assert_share("dead and called hard", 0.99, &rows, called_hard);
}

#[test]
fn hints_and_fingerprints_agree_with_the_corpus() {
    assert_share("hints", 1.0, &rows("retry_hints.jsonl"), |row| {
        hint(row["input"].as_str().unwrap())
            == row["expected_seconds"].as_u64().map(Duration::from_secs)
    });
    assert_share("fingerprints", 0.9, &rows("normalize_pairs.jsonl"), |row| {
        fingerprint(row["input"].as_str().unwrap()) == row["expected"].as_str().unwrap()
    });
}
