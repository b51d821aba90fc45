//! Webhooks: never a panic. Each event is a bounce or fact that is either accepted completely or
//! refused with the reason.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::webhook::check(bytes));
