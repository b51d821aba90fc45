//! The code follows its architecture. The diagram of crates in ARCHITECTURE.md matches Cargo, the
//! pure crates depend on nothing that does I/O, and files do not import each other in circles.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;

use serde_json::Value;

use crate::cargo::{folder, name, needs, root, workspace};
use crate::imports::{circle_through, imports};

/// The file that contains the diagram, and the lines before and after the diagram in it.
const MAP: &str = "ARCHITECTURE.md";
const BEGIN: &str = "<!-- crates: begin -->\n";
const END: &str = "<!-- crates: end -->";

/// Packages that contain no part of the product.
const TESTS: [&str; 5] = ["harness", "promises", "properties", "chaos", "repository"];

/// Crates without I/O.
const PURE: [&str; 6] = [
    "domain",
    "classify",
    "policy",
    "placement",
    "reports",
    "signing",
];
/// Packages that none of these crates may depend on.
const IMPURE: [&str; 8] = [
    "tokio",
    "redis",
    "deadpool-redis",
    "reqwest",
    "hyper",
    "axum",
    "hickory-resolver",
    "nix",
];

/// The diagram: an arrow from each of our crates to each of our crates that it needs. Arrows that
/// follow from other arrows are left out.
fn diagram(packages: &[Value]) -> String {
    let ours: BTreeSet<&str> = packages
        .iter()
        .map(name)
        .filter(|name| !TESTS.contains(name))
        .collect();
    let needed: BTreeMap<&str, BTreeSet<&str>> = packages
        .iter()
        .filter(|package| ours.contains(name(package)))
        .map(|package| {
            (
                name(package),
                needs(package).intersection(&ours).copied().collect(),
            )
        })
        .collect();
    let mut drawn = "```mermaid\nflowchart TD\n".to_owned();
    for (from, to) in &needed {
        let by_others: BTreeSet<&str> = to
            .iter()
            .flat_map(|middle| all_below(&needed, middle))
            .collect();
        for direct in to.difference(&by_others) {
            writeln!(drawn, "    {from} --> {direct}").unwrap();
        }
        if to.is_empty() {
            writeln!(drawn, "    {from}").unwrap();
        }
    }
    drawn + "```\n"
}

/// All crates that a crate needs, directly or through others.
fn all_below<'n>(needed: &BTreeMap<&'n str, BTreeSet<&'n str>>, from: &str) -> BTreeSet<&'n str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = needed[from].iter().copied().collect();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(&needed[next]);
        }
    }
    found
}

#[test]
fn the_diagram_of_crates_matches_what_cargo_builds() {
    let map = fs::read_to_string(root().join(MAP)).unwrap();
    let drawn = map
        .split_once(BEGIN)
        .and_then(|(_, rest)| rest.split_once(END))
        .map(|(drawn, _)| drawn.trim());
    let diagram = diagram(&workspace());
    assert_eq!(
        drawn,
        Some(diagram.trim()),
        "put this between the two lines in {MAP}:\n{diagram}"
    );
}

#[test]
fn the_pure_crates_depend_on_nothing_that_does_io() {
    let packages = workspace();
    for package in packages
        .iter()
        .filter(|package| PURE.contains(&name(package)))
    {
        let impure: Vec<_> = needs(package)
            .into_iter()
            .filter(|needed| IMPURE.contains(needed))
            .collect();
        assert!(impure.is_empty(), "{} needs {impure:?}", name(package));
    }
}

#[test]
fn no_file_imports_one_that_imports_it_in_turn() {
    let packages = workspace();
    let product = packages
        .iter()
        .filter(|package| !TESTS.contains(&name(package)));
    let mut circles = Vec::new();
    for package in product {
        let imports = imports(&folder(package).join("src"));
        assert!(!imports.is_empty(), "{}", name(package));
        for file in imports.keys().filter(|file| !file.is_empty()) {
            if let Some(circle) = circle_through(&imports, file) {
                circles.push((name(package).to_owned(), circle));
            }
        }
    }
    assert!(
        circles.is_empty(),
        "move what both files need into a third one: {circles:#?}"
    );
}

#[test]
fn the_example_of_a_sender_needs_only_senders_and_domain() {
    let text = fs::read_to_string(root().join("examples/custom_sender/printer.rs")).unwrap();
    let used: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("use ")?.split("::").next())
        .collect();
    assert_eq!(used, BTreeSet::from(["async_trait", "domain", "senders"]));
}
