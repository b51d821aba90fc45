//! Addresses: never a panic. Each has one canonical form, which parses to itself and is redacted
//! when it is printed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::address::check(bytes));
