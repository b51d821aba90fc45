//! Reads webhooks of mail services. No input causes a panic. Each event is a bounce or a fact, and
//! is either accepted completely or refused with a reason.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::webhook::check(bytes));
