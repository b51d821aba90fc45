//! Reports that others recorded, where the acceptance corpus lies beside the repository: statuses
//! have to come out exactly, and what is no failure must start nothing. Without the corpus nothing
//! is measured, and the test says so.

#![allow(clippy::disallowed_methods, reason = "the corpus is in files")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use policy::row::Class;
use policy::table::Table;
use reports::mailbox;
use reports::report::{Recipient, Report};
use serde_json::Value;

/// The corpus, in the folder `shared/corpus` beside one that the repository lies in.
fn corpus() -> Option<PathBuf> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    above
        .map(|folder| folder.join("shared/corpus"))
        .find(|folder| folder.join("pairs.jsonl").exists())
}

fn recipients(file: &Path) -> Vec<Recipient> {
    let bytes = fs::read(file).unwrap_or_else(|err| panic!("{}: {err}", file.display()));
    mailbox::messages(&bytes)
        .into_iter()
        .flat_map(|message| Report::read(message).recipients)
        .collect()
}

fn is_hard(recipient: &Recipient, table: &Table) -> bool {
    recipient.has_failed() && table.row(&recipient.reply, "", None, "").class() == Class::Hard
}

#[test]
fn recorded_reports_are_read_as_their_recorders_say() {
    let Some(corpus) = corpus() else {
        // Not by a macro: what those print is shown of tests that fail only.
        return io::stderr()
            .write_all(b"NOT MEASURED: there is no folder shared/corpus beside the repository\n")
            .unwrap();
    };
    let table = Table::embedded();
    let text = fs::read_to_string(corpus.join("pairs.jsonl")).unwrap();
    let pairs = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut statuses: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let (mut agree, mut all) = (0, 0);
    let (mut alive, mut killed) = (0, 0);
    let (mut by_reason, mut all_by_reason) = (0, 0);
    for pair in pairs.filter(|pair| pair["kind"] == "dsn") {
        let index = usize::try_from(pair["index"].as_u64().unwrap_or(1)).unwrap();
        let recipients = recipients(&corpus.join(pair["input"].as_str().unwrap()));
        let recipient = recipients.get(index - 1);
        if let Some(expected) = pair["expected_status"].as_str() {
            let found = recipient
                .and_then(|one| one.reply.status)
                .map(|status| status.to_string());
            let (right, of) = statuses
                .entry(pair["stratum"].as_str().unwrap_or_default().to_owned())
                .or_default();
            *of += 1;
            *right += usize::from(found.as_deref() == Some(expected));
        }
        let hard = recipient.is_some_and(|one| is_hard(one, &table));
        all += 1;
        agree += usize::from(hard == (pair["expected_class"] == "hard"));
        // Where the recorder names no reason, hard says no more than that the report had given up.
        let has_reason = pair["expected_reason"].is_string();
        by_reason += usize::from(has_reason && hard == (pair["expected_class"] == "hard"));
        all_by_reason += usize::from(has_reason);
        alive += usize::from(pair["expected_class"] == "soft");
        killed += usize::from(pair["expected_class"] == "soft" && hard);
        // What is no failure starts nothing, wherever the recorders agree that it is none.
        if pair["expected_class"] == "none" && pair["index"].is_u64() {
            assert!(
                recipient.is_none_or(|one| !one.has_failed()),
                "{}",
                pair["id"]
            );
        }
    }
    println!(
        "statuses {statuses:?}; hard or not {agree} of {all}, with a reason {by_reason} of {all_by_reason}"
    );
    for stratum in ["status-field", "diagnostic-code"] {
        let (right, of) = statuses[stratum];
        assert!(right * 100 >= of * 99, "{stratum}: {right} of {of}");
    }
    let (right, of) = statuses["body-text"];
    assert!(right * 100 >= of * 90, "body-text: {right} of {of}");
    assert!(agree * 100 >= all * AGREE_AT_LEAST, "{agree} of {all}");
    assert!(
        by_reason * 100 >= all_by_reason * 93,
        "{by_reason} of {all_by_reason} with a reason"
    );
    assert!(killed * 100 <= alive, "{killed} of {alive} that are alive");
}

/// How many in a hundred have to agree; the policy's rows decide it more than the reading does.
/// What is missing are mostly full mailboxes, queues that ran out and loops, which say nothing of
/// whether somebody is there.
const AGREE_AT_LEAST: usize = 93;
