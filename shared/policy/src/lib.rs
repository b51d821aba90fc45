//! The retry policy: which failures are retried, how often and how far apart, and what becomes of
//! the address when retrying ends. The reference table is `default.toml`. All of it is pure.

pub mod decide;
pub mod jitter;
pub mod load;
mod ranking;
pub mod row;
pub mod rulings;
pub mod table;
mod whose;
