//! Checks the dependencies: deny.toml allows their licences and does not ban them, they come from
//! crates.io, and the sources use each dependency that a manifest lists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use spdx::{Expression, ParseMode};
use toml::Table;

use crate::cargo::{everything, folder, name, root, workspace};

/// Dependencies that no source uses. A manifest lists them only to choose their features.
const FOR_FEATURES: [&str; 0] = [];

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn deny_toml() -> Table {
    let text = fs::read_to_string(root().join("deny.toml")).unwrap();
    text.parse().unwrap()
}

fn texts(list: &toml::Value) -> BTreeSet<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let rules = deny_toml();
    let allowed = texts(&rules["licenses"]["allow"]);
    let packages = everything();
    assert!(packages.len() > 100, "{}", packages.len());
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !is_allowed(package, &allowed))
        .map(|package| format!("{} {}", name(package), package["license"]))
        .collect();
    assert!(refused.is_empty(), "not allowed by deny.toml: {refused:#?}");
}

fn is_allowed(package: &Value, allowed: &BTreeSet<&str>) -> bool {
    let licence = package["license"].as_str().unwrap_or_default();
    Expression::parse_mode(licence, ParseMode::LAX).is_ok_and(|expression| {
        expression.evaluate(|required| allowed.contains(required.to_string().as_str()))
    })
}

#[test]
fn a_licence_that_is_not_allowed_is_found() {
    let allowed = BTreeSet::from(["MIT", "ISC"]);
    for (licence, expected) in [
        ("MIT", true),
        ("MIT OR GPL-3.0-only", true),
        ("MIT/Apache-2.0", true),
        ("MIT AND GPL-3.0-only", false),
        ("GPL-3.0-only", false),
        ("", false),
    ] {
        let package = serde_json::json!({ "license": licence });
        assert_eq!(is_allowed(&package, &allowed), expected, "{licence}");
    }
}

#[test]
fn no_dependency_is_banned_or_from_another_registry() {
    let rules = deny_toml();
    let banned: BTreeSet<&str> = rules["bans"]["deny"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["crate"].as_str().unwrap())
        .collect();
    assert!(!banned.is_empty());
    for package in everything() {
        let name = name(&package);
        assert!(!banned.contains(name), "{name} is banned by deny.toml");
        let source = package["source"].as_str();
        assert!(
            source.is_none_or(|source| source == REGISTRY),
            "{name} is not from crates.io: {source:?}"
        );
    }
}

#[test]
fn every_dependency_in_a_manifest_is_used() {
    let packages = workspace();
    let folders: Vec<PathBuf> = packages.iter().map(folder).collect();
    let mut unused = Vec::new();
    for package in &packages {
        let mut text = String::new();
        read_sources(&folder(package), &folders, &mut text);
        for target in package["targets"].as_array().unwrap() {
            let source = fs::canonicalize(target["src_path"].as_str().unwrap()).unwrap();
            let source_folder = source.parent().unwrap();
            if !source_folder.starts_with(folder(package)) {
                read_sources(source_folder, &folders, &mut text);
            }
        }
        for dependency in package["dependencies"].as_array().unwrap() {
            let crate_name = dependency["rename"].as_str().unwrap_or(name(dependency));
            if !is_used(&crate_name.replace('-', "_"), &text) && !FOR_FEATURES.contains(&crate_name)
            {
                unused.push(format!("{}: {crate_name}", name(package)));
            }
        }
    }
    assert!(
        unused.is_empty(),
        "remove these from the manifests: {unused:#?}"
    );
}

/// Appends the Rust sources below a folder to `text`. Packages inside the folder are left out.
fn read_sources(folder: &Path, packages: &[PathBuf], text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !packages.contains(&path) && !path.ends_with("target") {
            read_sources(&path, packages, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// Whether a source uses a crate: in a path (`name::` or `::name::`), or in `use name;`. A module
/// of the same name inside a path (`other::name::`) does not count.
fn is_used(crate_name: &str, text: &str) -> bool {
    text.match_indices(crate_name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = &text[at + crate_name.len()..];
        let is_first = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
        let is_global = text[..at].ends_with(" ::");
        (is_first || is_global) && (after.starts_with("::") || after.starts_with(';'))
    })
}
