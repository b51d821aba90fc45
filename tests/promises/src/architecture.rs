//! The architecture is as the map draws it: the diagram of crates is that of Cargo, the pure crates
//! need nothing impure, and in the shared crates no file imports one that imports it in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Where the diagram is, and the lines that it stands between.
const MAP: &str = "ARCHITECTURE.md";
const BEGIN: &str = "<!-- crates: begin -->\n";
const END: &str = "<!-- crates: end -->";

/// Packages that hold no part of the product.
const TESTS: [&str; 4] = ["harness", "promises", "properties", "chaos"];

/// Crates without I/O, and what none of them may need.
const PURE: [&str; 6] = [
    "domain",
    "classify",
    "policy",
    "placement",
    "reports",
    "signing",
];
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

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the tests are two folders below the root")
}

fn packages() -> Vec<Value> {
    let cargo = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        cargo.status.success(),
        "{}",
        String::from_utf8_lossy(&cargo.stderr)
    );
    let mut metadata: Value = serde_json::from_slice(&cargo.stdout).unwrap();
    metadata["packages"]
        .as_array_mut()
        .map(std::mem::take)
        .unwrap()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

/// What a package needs to be built, without what its tests need.
fn needs(package: &Value) -> BTreeSet<&str> {
    let dependencies = package["dependencies"].as_array().unwrap().iter();
    dependencies
        .filter(|needed| needed["kind"].is_null())
        .map(name)
        .collect()
}

/// The arrows between our own crates, without those that follow from others.
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
fn the_map_draws_the_crates_as_cargo_builds_them() {
    let map = fs::read_to_string(root().join(MAP)).unwrap();
    let drawn = map
        .split_once(BEGIN)
        .and_then(|(_, rest)| rest.split_once(END))
        .map(|(drawn, _)| drawn.trim());
    let diagram = diagram(&packages());
    assert_eq!(
        drawn,
        Some(diagram.trim()),
        "put this between the two lines in {MAP}:\n{diagram}"
    );
}

#[test]
fn the_pure_crates_need_nothing_that_does_io() {
    let packages = packages();
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
fn in_the_shared_crates_no_file_imports_one_that_imports_it_in_turn() {
    let crates: Vec<PathBuf> = fs::read_dir(root().join("shared"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(crates.len() >= 10, "{crates:?}");
    for folder in crates {
        let imports = imports(&folder.join("src"));
        for file in imports.keys() {
            let circle = circle_through(&imports, file);
            assert!(
                circle.is_none(),
                "{}: {circle:?} is a circle; move what both need",
                folder.display()
            );
        }
    }
}

/// By module, the modules of the same crate that it imports.
fn imports(source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut texts = BTreeMap::new();
    read_modules(source, "", &mut texts);
    let modules: BTreeSet<String> = texts.keys().cloned().collect();
    let imported = |text: &String| {
        let own = text
            .split("#[cfg(test)]\nmod tests")
            .next()
            .unwrap_or_default();
        let lines = own
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let paths = lines.flat_map(|line| {
            line.split("crate::")
                .skip(1)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
        paths
            .filter_map(|path| module_of(&path, &modules))
            .collect()
    };
    texts
        .iter()
        .map(|(module, text)| (module.clone(), imported(text)))
        .collect()
}

fn read_modules(folder: &Path, prefix: &str, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let module = if prefix.is_empty() {
            stem.to_owned()
        } else {
            format!("{prefix}::{stem}")
        };
        if path.is_dir() {
            read_modules(&path, &module, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && stem != "lib"
            && stem != "tests"
        {
            texts.insert(module, fs::read_to_string(&path).unwrap());
        }
    }
}

/// The longest module that a path leads into.
fn module_of(path: &str, modules: &BTreeSet<String>) -> Option<String> {
    let end = path
        .find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
        .unwrap_or(path.len());
    let mut path = path[..end].trim_end_matches(':');
    loop {
        if modules.contains(path) {
            return Some(path.to_owned());
        }
        path = path.rsplit_once("::")?.0;
    }
}

fn circle_through(
    imports: &BTreeMap<String, BTreeSet<String>>,
    start: &String,
) -> Option<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut open = vec![vec![start.clone()]];
    while let Some(way) = open.pop() {
        for next in way
            .last()
            .and_then(|last| imports.get(last))
            .into_iter()
            .flatten()
        {
            if next == start && way.len() > 1 {
                return Some(way);
            }
            if next != start && seen.insert(next.clone()) {
                open.push(way.iter().cloned().chain([next.clone()]).collect());
            }
        }
    }
    None
}
