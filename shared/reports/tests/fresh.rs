//! Measures replies and reports that the rules were not written for, if the acceptance corpus is
//! next to the repository. Recorded texts and sentences in other languages are counted apart. A
//! quarter of the pairs was kept out of sight while the rules were written: [`is_held_out`].
//! Without the corpus nothing is measured, and the test prints that.

#![allow(clippy::disallowed_methods, reason = "the corpus is in files")]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use classify::reason;
use domain::reply::Reply;
use policy::row::Class;
use policy::table::Table;
use reports::mailbox;
use reports::report::{Recipient, Report};
use serde_json::Value;

/// Returns the folder of the fresh pairs, next to the repository.
fn fresh() -> Option<PathBuf> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    above
        .map(|folder| folder.join("shared/corpus/fresh"))
        .find(|folder| folder.join("pairs.jsonl").exists())
}

/// Whether a pair was kept out of sight: the FNV-1a hash of its id is divisible by four.
fn is_held_out(pair: &Value) -> bool {
    let id = pair["id"].as_str().unwrap_or_default();
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash % 4 == 0
}

/// What we make of one pair.
struct Reading {
    class: Option<Class>,
    reason: Option<&'static str>,
}

fn read(pair: &Value, folder: &Path, table: &Table) -> Reading {
    let replies: Vec<Reply> = if let Some(text) = pair["text"].as_str() {
        vec![Reply::parse(text)]
    } else {
        let file = folder.join(pair["file"].as_str().unwrap_or_default());
        let bytes = fs::read(&file).unwrap_or_else(|err| panic!("{}: {err}", file.display()));
        mailbox::messages(&bytes)
            .into_iter()
            .flat_map(|message| Report::read(message).recipients)
            .filter(Recipient::has_failed)
            .map(|recipient| recipient.reply)
            .collect()
    };
    // A report about several recipients is read as its worst one.
    let classes = replies
        .iter()
        .map(|reply| table.row(reply, "", None, "").class());
    let worst = classes
        .enumerate()
        .max_by_key(|(_, class)| *class == Class::Hard);
    let reply = worst.map(|(n, _)| &replies[n]);
    Reading {
        class: worst.map(|(_, class)| class),
        reason: reply
            .and_then(reason::recognize)
            .map(reason::Reason::as_str),
    }
}

/// How many pairs of a kind there are, and how many are right.
#[derive(Default)]
struct Count {
    pairs: usize,
    right: usize,
    alive: usize,
    alive_called_dead: usize,
    explained: usize,
    named: usize,
}

impl Count {
    fn add(&mut self, pair: &Value, reading: &Reading) {
        let hard = reading.class == Some(Class::Hard);
        match pair["expected_class"].as_str() {
            // Mail services differ about disabled mailboxes.
            Some("disabled") => {}
            Some(expected) => {
                self.pairs += 1;
                self.right += usize::from(is_right(expected, reading));
                self.alive += usize::from(expected != "hard");
                self.alive_called_dead += usize::from(expected != "hard" && hard);
            }
            None => {}
        }
        if let Some(expected) = pair["expected_reason"].as_str() {
            self.explained += 1;
            self.named += usize::from(reading.reason == Some(expected));
        }
    }
}

/// Returns how many of a hundred `part` of `of` are.
fn share(part: usize, of: usize) -> f64 {
    100.0 * part as f64 / of.max(1) as f64
}

fn is_right(expected: &str, reading: &Reading) -> bool {
    match expected {
        "none" => reading.class.is_none(),
        expected => (reading.class == Some(Class::Hard)) == (expected == "hard"),
    }
}

#[test]
fn fresh_pairs_are_understood() {
    let Some(folder) = fresh() else {
        // Written directly: the output of macros is only shown for tests that fail.
        return io::stderr()
            .write_all(
                b"NOT MEASURED: there is no folder shared/corpus/fresh next to the repository\n",
            )
            .unwrap();
    };
    let table = Table::embedded();
    let text = fs::read_to_string(folder.join("pairs.jsonl")).unwrap();
    let mut counts: [Count; 4] = Default::default();
    for line in text.lines() {
        let pair: Value = serde_json::from_str(line).unwrap();
        let reading = read(&pair, &folder, &table);
        let is_written = pair["source"]
            .as_str()
            .is_some_and(|source| source.starts_with("languages"));
        let held_out = is_held_out(&pair);
        counts[usize::from(is_written) * 2 + usize::from(held_out)].add(&pair, &reading);
    }
    let kinds = [
        ("recorded", 96.0, 0.3, 75.0),
        ("recorded, held out", 96.0, 0.3, 75.0),
        ("languages", 93.0, 0.5, 60.0),
        ("languages, held out", 93.0, 0.5, 60.0),
    ];
    for ((name, right_at_least, dead_at_most, named_at_least), count) in kinds.iter().zip(&counts) {
        let right = share(count.right, count.pairs);
        let dead = share(count.alive_called_dead, count.alive);
        let named = share(count.named, count.explained);
        println!(
            "{name}: right {right:.1} % of {}, alive but called dead {dead:.1} % of {}, \
             reason named {named:.1} % of {}",
            count.pairs, count.alive, count.explained,
        );
        assert!(right >= *right_at_least, "{name}: right {right:.1} %");
        assert!(dead <= *dead_at_most, "{name}: called dead {dead:.1} %");
        assert!(named >= *named_at_least, "{name}: named {named:.1} %");
    }
}
