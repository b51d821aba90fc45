//! Talks LMTP to the intake. Each command gets one well-formed reply, and content is accepted only
//! if there are recipients.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::lmtp::check(bytes));
