//! What Redeliver's scheduler and worker share: the words of the field, the retry policy, and the store.
//!
//! The modules are listed in reading order. Up to [`clock`] they are pure: no I/O, no wall clock, no environment.

pub mod config;
pub mod telemetry;
