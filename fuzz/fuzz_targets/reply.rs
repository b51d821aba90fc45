//! Replies: never a panic, bounded, on one line, and code and status the same when printed and read
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::reply::hold_of(bytes));
