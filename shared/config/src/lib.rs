//! The configuration: every key of `redeliver.toml`, read from the defaults, a file and the
//! environment, in this order. All faults are reported at once.

pub mod access;
pub mod cli;
mod concurrency;
pub mod connections;
pub mod content;
mod cron;
pub mod hooks;
pub mod lmtp;
pub mod load;
pub mod model;
mod open_files;
mod read;
pub mod redis;
pub mod return_paths;
pub mod sources;
pub mod stream;
pub mod telemetry;
