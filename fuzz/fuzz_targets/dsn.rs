//! Reports that come as mail: never a panic, bounded, every name on one line, and no failure that
//! says success.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::dsn::hold_of(bytes));
