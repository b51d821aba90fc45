//! Reads typed settings from TOML: sections and their faults, secrets, and files named in settings.

pub mod fault;
pub mod files;
pub mod hosts;
pub mod names;
pub mod secret;
pub mod section;
pub mod set;
