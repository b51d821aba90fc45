//! LMTP: one well-formed reply per command, and content for recipients alone.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::lmtp::hold_of(bytes));
