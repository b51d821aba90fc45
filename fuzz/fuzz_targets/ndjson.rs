//! NDJSON and log lines: never a panic. The lines are the same however the bytes arrive, and
//! records can be read back.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::ndjson::check(bytes));
