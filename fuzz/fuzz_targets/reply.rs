//! Parses SMTP replies. No input causes a panic. Each parsed reply is within its limits and on one
//! line. Its code and status are the same after it is printed and parsed again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::reply::check(bytes));
