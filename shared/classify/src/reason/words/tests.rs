//! Tests of the word lists: what every language must know, and that its words work together in any
//! order.

use toml::{Table, Value};

use super::super::{Reason, recognize};
use super::load::LANGUAGES;
use domain::reply::Reply;

/// The meanings that examples are for, each with its reason.
const MEANINGS: [(&str, Reason); 10] = [
    ("unknown", Reason::UserUnknown),
    ("sender", Reason::SenderRejected),
    ("blocked", Reason::Blocked),
    ("full", Reason::MailboxFull),
    ("system_full", Reason::SystemFull),
    ("disabled", Reason::MailboxDisabled),
    ("moved", Reason::Moved),
    ("rate", Reason::RateLimited),
    ("too_big", Reason::TooBig),
    ("no_domain", Reason::HostUnknown),
];

/// The meanings that every language knows that knows an unknown user.
const REQUIRED: [&str; 7] = [
    "sender",
    "blocked",
    "full",
    "system_full",
    "disabled",
    "moved",
    "rate",
];

/// The reasons that end an address.
const DEADLY: [Reason; 4] = [
    Reason::UserUnknown,
    Reason::HostUnknown,
    Reason::Moved,
    Reason::NotAccepting,
];

fn languages() -> impl Iterator<Item = (&'static str, Table)> {
    LANGUAGES
        .iter()
        .map(|(code, toml)| (*code, toml::from_str(toml).unwrap()))
}

fn texts<'t>(table: &'t Table, key: &str) -> Vec<&'t str> {
    let list = table.get(key).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn examples(table: &Table) -> Vec<(&str, &str)> {
    let examples = table["examples"].as_table().unwrap();
    examples
        .keys()
        .flat_map(|meaning| {
            let texts = texts(examples, meaning).into_iter();
            texts.map(move |text| (meaning.as_str(), text))
        })
        .collect()
}

fn reason(text: &str) -> Option<Reason> {
    recognize(&Reply::parse(text))
}

#[test]
fn every_language_that_knows_an_unknown_user_knows_the_other_causes() {
    for (code, table) in languages().filter(|(code, _)| *code != "en") {
        let examples = examples(&table);
        let knows = |meaning: &str| examples.iter().any(|(known, _)| *known == meaning);
        assert!(knows("unknown"), "{code}");
        let missing: Vec<_> = REQUIRED.iter().filter(|meaning| !knows(meaning)).collect();
        assert!(missing.is_empty(), "{code} has no example of {missing:?}");
    }
}

#[test]
fn every_example_of_a_language_means_what_it_should() {
    let mut wrong = Vec::new();
    for (code, table) in languages() {
        for (meaning, text) in examples(&table) {
            let expected = MEANINGS
                .iter()
                .find(|(name, _)| *name == meaning)
                .unwrap()
                .1;
            let found = reason(text);
            if found != Some(expected) {
                wrong.push((code, text.to_owned(), found));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Returns `a` and `b` as a sentence in both orders.
fn both_orders(a: &str, b: &str) -> [String; 2] {
    let (a, b) = (a.trim_matches('-'), b.trim_matches('-'));
    [format!("550 {a} {b}"), format!("550 {b} {a}")]
}

#[test]
fn thing_and_state_mean_the_same_in_both_orders() {
    let mut wrong = Vec::new();
    for (code, table) in languages() {
        for (state, expected) in [
            ("unknown", Reason::UserUnknown),
            ("full", Reason::MailboxFull),
            ("disabled", Reason::MailboxDisabled),
        ] {
            let thing = texts(&table, "user")[0];
            for word in texts(&table, state) {
                for text in both_orders(thing, word) {
                    let found = reason(&text);
                    if found != Some(expected) {
                        wrong.push((code, text, found));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_refusal_of_the_sender_never_ends_an_address() {
    let mut wrong = Vec::new();
    for (code, table) in languages() {
        for sender in texts(&table, "sender") {
            for state in ["unknown", "rejected", "disabled", "moved", "no_longer"] {
                for word in texts(&table, state) {
                    for text in both_orders(sender, word) {
                        let found = reason(&text);
                        if found.is_some_and(|found| DEADLY.contains(&found)) {
                            wrong.push((code, text, found));
                        }
                    }
                }
            }
            // The rest of the sentence may speak of a user or a domain.
            let (user, domain) = (texts(&table, "user")[0], texts(&table, "domain"));
            let unknown = texts(&table, "unknown")[0];
            for thing in [Some(&user), domain.first()].into_iter().flatten() {
                let words = [sender, ":", thing, unknown].map(|word| word.trim_matches('-'));
                let text = format!("550 {}", words.join(" "));
                let found = reason(&text);
                if found.is_some_and(|found| DEADLY.contains(&found)) {
                    wrong.push((code, text, found));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_error_that_is_unknown_is_not_an_unknown_user() {
    let mut wrong = Vec::new();
    for (code, table) in languages().filter(|(code, _)| *code != "en") {
        for unclear in texts(&table, "unclear") {
            let user = texts(&table, "user")[0];
            for text in both_orders(unclear, user) {
                let found = reason(&text);
                if found.is_some_and(|found| DEADLY.contains(&found)) {
                    wrong.push((code, text, found));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
