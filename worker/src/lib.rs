//! The worker: claims due jobs, attempts redelivery, and settles the results. It shares only Redis
//! with the scheduler.

pub mod attempt;
pub mod connect;
pub mod content;
pub mod listener;
pub mod presence;
pub mod rendezvous;
mod route_gates;
pub mod routes;
pub mod run;
pub mod settler;
mod soon;
mod visits;
