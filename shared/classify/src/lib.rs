//! Reads the text of a reply: why mail failed, when the server wants the next attempt, and a
//! fingerprint that is equal for replies that differ only in names and numbers. What to do about it
//! is decided in the crate `policy`.

pub mod fingerprint;
pub mod hint;
pub mod reason;
