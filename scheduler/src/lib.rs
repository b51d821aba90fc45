//! The scheduler: takes bounces in over HTTP, answers what is known of addresses, streams events,
//! and runs upkeep. It meets the workers only in Redis; any number of replicas can run.

pub mod access;
pub mod api;
pub mod connections;
pub mod intake;
pub mod placement;
pub mod serve;
pub mod upkeep;
