//! The services of the machine that Redeliver runs on: clocks, DNS, TLS and open files. This crate
//! also judges errors of the system: whose fault each one is, what an operator can do about it, and
//! how often it is logged.

pub mod clock;
pub mod dns;
pub mod limiter;
pub mod open_files;
pub mod tls;
pub mod tls_files;
pub mod troubles;
pub mod whose_fault;
