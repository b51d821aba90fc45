//! NDJSON and log lines: never a panic, the same lines however the bytes arrive, and records that
//! read back.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::ndjson::hold_of(bytes));
