//! Reads NDJSON and log lines. No input causes a panic. The same bytes give the same lines, in
//! whatever pieces they arrive. Records that are written can be read back.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::ndjson::check(bytes));
