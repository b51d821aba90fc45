//! What Redeliver asks of the machine that it runs on: its clocks, the DNS, TLS and open files.
//! Errors of the system are judged here: whose fault each one is, and what an operator can do about
//! it.

pub mod clock;
pub mod dns;
pub mod open_files;
pub mod tls;
pub mod tls_files;
pub mod troubles;
pub mod whose_fault;
