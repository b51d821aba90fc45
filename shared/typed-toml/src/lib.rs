//! Typed reading of settings in TOML: sections and their faults, secrets, and the files that they
//! name.

pub mod fault;
pub mod files;
pub mod hosts;
pub mod names;
pub mod secret;
pub mod section;
pub mod set;
