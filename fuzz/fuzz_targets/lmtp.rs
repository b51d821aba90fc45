//! LMTP: one well-formed reply per command, and content only for recipients.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::lmtp::check(bytes));
