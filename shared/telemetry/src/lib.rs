//! Logs, and later traces and metrics, of a process. Addresses are personal data and never appear
//! in them.

pub mod log;
