//! Reads reports that others recorded, if the acceptance corpus is next to the repository. Statuses
//! must be exactly right, and a report that is not about a failure must not count as one. Without
//! the corpus nothing is measured, and the test prints that.

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

/// Returns the corpus: the folder `shared/corpus` in a folder above, next to the repository.
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

/// Whether a label contradicts the words: "user unknown" is labelled as a filter or as a suspended
/// mailbox.
fn contradicts(pair: &Value, recipient: &Recipient) -> bool {
    let words = recipient.reply.text.to_lowercase();
    let is_unknown = [
        "user unknown",
        "unknown user",
        "no such user",
        "user not exist",
    ];
    ["filtered", "suspend"]
        .iter()
        .any(|label| pair["expected_reason"] == *label)
        && is_unknown.iter().any(|unknown| words.contains(unknown))
}

#[test]
fn recorded_reports_are_read_as_recorded() {
    let Some(corpus) = corpus() else {
        // Written directly: the output of macros is only shown for tests that fail.
        return io::stderr()
            .write_all(b"NOT MEASURED: there is no folder shared/corpus next to the repository\n")
            .unwrap();
    };
    let table = Table::embedded();
    let text = fs::read_to_string(corpus.join("pairs.jsonl")).unwrap();
    let pairs = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut statuses: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let (mut agree, mut all) = (0, 0);
    let (mut alive, mut called_dead) = (0, 0);
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
        if recipient.is_some_and(|one| contradicts(&pair, one)) {
            continue;
        }
        let hard = recipient.is_some_and(|one| is_hard(one, &table));
        all += 1;
        agree += usize::from(hard == (pair["expected_class"] == "hard"));
        // Without a recorded reason, "hard" only means that the mail system had given up.
        let has_reason = pair["expected_reason"].is_string();
        by_reason += usize::from(has_reason && hard == (pair["expected_class"] == "hard"));
        all_by_reason += usize::from(has_reason);
        alive += usize::from(pair["expected_class"] == "soft");
        called_dead += usize::from(pair["expected_class"] == "soft" && hard);
        // A report that is not about a failure must not count as one, if all who recorded it agree
        // that it is not.
        if pair["expected_class"] == "none" && pair["index"].is_u64() {
            assert!(
                recipient.is_none_or(|one| !one.has_failed()),
                "{}",
                pair["id"]
            );
        }
    }
    println!(
        "statuses {statuses:?}; hard or not {agree} of {all}, \
         with a reason {by_reason} of {all_by_reason}"
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
    assert!(
        called_dead * 100 <= alive,
        "{called_dead} of {alive} that are alive"
    );
}

/// How many in a hundred must agree. This depends more on the policy's rows than on reading. The
/// rest are mostly full mailboxes, expired queues and loops, which do not show whether the
/// recipient exists.
const AGREE_AT_LEAST: usize = 93;
