//! Checks of the repository itself, which `make check` runs: the crates follow the architecture,
//! the dependencies are allowed and used, and generated pages match the code.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod alerts;
mod architecture;
mod cargo;
mod dependencies;
mod fuzz;
mod imports;
mod makefile;
mod metrics_page;
mod pages;
mod promises_page;
