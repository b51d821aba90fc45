//! The scheduler: accepts bounces over HTTP, answers questions about addresses, streams events, and
//! runs upkeep. It shares only Redis with the workers. Any number of replicas can run.

pub mod access;
pub mod api;
pub mod connections;
pub mod event_readers;
pub mod fleet_figures;
pub mod intake;
pub mod placement;
pub mod serve;
pub mod upkeep;
