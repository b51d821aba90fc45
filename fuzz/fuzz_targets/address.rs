//! Parses addresses. No input causes a panic. Each address has one canonical form, which parses to
//! itself. Printing an address redacts it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::address::check(bytes));
