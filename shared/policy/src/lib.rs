//! The retry policy: which failures are retried, how often and when, and the standing of the
//! address when retrying ends. The reference table is `default.toml`. Everything is pure.

pub mod decide;
pub mod jitter;
pub mod lifecycle;
pub mod load;
mod ranking;
pub mod row;
pub mod rulings;
pub mod table;
