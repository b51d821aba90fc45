//! Addresses: never a panic, and one canonical form that reads as itself and is redacted where it
//! is printed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::address::hold_of(bytes));
