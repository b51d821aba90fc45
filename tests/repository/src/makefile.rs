//! The Makefile names only tests that exist.

use std::fs;

use crate::cargo::root;

#[test]
fn the_tests_over_valkey_are_modules_of_the_promises() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let (_, rest) = makefile.split_once("VALKEY_TESTS := ").unwrap();
    let mut names = Vec::new();
    for line in rest.lines() {
        names.extend(line.trim_end_matches('\\').split_whitespace());
        if !line.ends_with('\\') {
            break;
        }
    }
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let file = root().join(format!("tests/promises/src/{name}.rs"));
        assert!(file.exists(), "{name} is no module of the promises");
    }
}
