//! Webhooks: never a panic, and each event a bounce or fact that is taken in whole or refused with
//! the reason.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| properties::webhook::hold_of(bytes));
