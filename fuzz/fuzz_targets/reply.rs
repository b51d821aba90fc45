//! Replies: never a panic, within bounds, and on one line. Code and status are the same after a
//! reply is printed and parsed again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::reply::check(bytes));
