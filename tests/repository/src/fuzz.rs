//! The fuzz targets call nothing but a property that the tests check too. `fuzz/` is a workspace of
//! its own, which CI does not compile.

use std::fs;

use crate::cargo::root;

#[test]
fn each_fuzz_target_is_one_call_of_a_property() {
    let read = |path: &str| {
        fs::read_to_string(root().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
    };
    let manifest = read("fuzz/Cargo.toml");
    let names: Vec<&str> = manifest
        .lines()
        .filter_map(|line| {
            line.strip_prefix("path = \"fuzz_targets/")?
                .strip_suffix(".rs\"")
        })
        .collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        let target = read(&format!("fuzz/fuzz_targets/{name}.rs"));
        let code: Vec<&str> = target
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with("//!"))
            .collect();
        let call = format!("fuzz_target!(|bytes: &[u8]| properties::{name}::check(bytes));");
        assert_eq!(
            code,
            ["#![no_main]", "use libfuzzer_sys::fuzz_target;", &call]
        );
        let property = read(&format!("tests/properties/src/{name}.rs"));
        assert!(
            property.contains("\npub fn check(bytes: &[u8]) {"),
            "properties::{name} has no function `check` that takes bytes"
        );
    }
}
