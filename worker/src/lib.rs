//! The worker: claims due jobs, attempts redelivery, settles. It meets the scheduler only in Redis.

pub mod attempt;
pub mod connect;
pub mod content;
pub mod presence;
pub mod rendezvous;
pub mod routes;
pub mod run;
pub mod settler;
mod soon;
mod visits;
