//! The seeds of the fuzz targets, unchanged and damaged.

use std::path::{Path, PathBuf};
use std::{fs, io};

use properties::{address, dsn, lmtp, ndjson, reply, webhook};

use super::nearly::{anything, damaged, try_all};

/// The name of each target, and its function.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 6] = [
    ("address", address::check),
    ("dsn", dsn::check),
    ("lmtp", lmtp::check),
    ("ndjson", ndjson::check),
    ("reply", reply::check),
    ("webhook", webhook::check),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files of a folder, in the same order everywhere.
fn files(folder: &str) -> Vec<Vec<u8>> {
    let folder = repository().join(folder);
    let read = || {
        fs::read_dir(&folder)?
            .map(|entry| fs::read(entry?.path()))
            .collect::<io::Result<Vec<_>>>()
    };
    let mut files = read().unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    files.sort_unstable();
    files
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let mut seeds = files(&format!("fuzz/seeds/{name}"));
    if name == "dsn" {
        seeds.extend(files("shared/reports/src/fixtures"));
    }
    seeds
}

#[test]
fn the_properties_hold_for_every_seed() {
    for (name, check) in TARGETS {
        seeds(name).iter().for_each(|seed| check(seed));
    }
}

#[test]
fn the_properties_hold_for_damaged_seeds() {
    for (name, check) in TARGETS {
        try_all(&damaged(seeds(name)), check);
    }
}

#[test]
fn the_properties_hold_for_any_bytes() {
    for (_, check) in TARGETS {
        try_all(&anything(), check);
    }
}

#[test]
fn every_fuzz_target_has_seeds_and_is_built() {
    let manifest =
        fs::read_to_string(repository().join("fuzz/Cargo.toml")).expect("the manifest is there");
    for (name, _) in TARGETS {
        assert!(!seeds(name).is_empty(), "{name}");
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "{name}"
        );
    }
}
