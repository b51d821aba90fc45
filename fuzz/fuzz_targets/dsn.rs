//! Parses reports that came as mail. No input causes a panic or exceeds the limits. Every name in a
//! report is on one line, and no failure has a status that means success.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::dsn::check(bytes));
