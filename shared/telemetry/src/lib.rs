//! What a process says about itself. Addresses are personal data and never appear here.

pub mod log;
