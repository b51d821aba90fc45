//! The seeds of the fuzz targets, as they are and with damage.

use std::path::{Path, PathBuf};
use std::{fs, io};

use properties::{address, dsn, lmtp, ndjson, reply, webhook};

use super::nearly::{anything, damaged, try_all};

/// What each target reads, by its name.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 6] = [
    ("address", address::hold_of),
    ("dsn", dsn::hold_of),
    ("lmtp", lmtp::hold_of),
    ("ndjson", ndjson::hold_of),
    ("reply", reply::hold_of),
    ("webhook", webhook::hold_of),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files of a folder, in an order that is the same everywhere.
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
fn the_properties_hold_of_every_seed() {
    for (name, hold_of) in TARGETS {
        seeds(name).iter().for_each(|seed| hold_of(seed));
    }
}

#[test]
fn the_properties_hold_of_damaged_seeds() {
    for (name, hold_of) in TARGETS {
        try_all(&damaged(seeds(name)), hold_of);
    }
}

#[test]
fn the_properties_hold_of_any_bytes() {
    for (_, hold_of) in TARGETS {
        try_all(&anything(), hold_of);
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
