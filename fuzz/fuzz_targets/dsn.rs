//! Reports that come as mail: never a panic, and never beyond the bounds. Every name is on one
//! line, and no failure has a status of success.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::dsn::check(bytes));
