//! Redeliver's promises, a module each. What a test's name says is what must hold.

#![allow(clippy::unwrap_used, reason = "all of this is tests, the functions that they share too")]

mod addresses;
mod bounds;
mod breaker;
mod clustered;
mod confirm;
mod conformance;
mod content;
mod deployments;
mod drain;
mod durability;
mod events;
mod expiry;
mod faults;
mod fencing;
mod final_events;
mod fleet;
mod floods;
mod holds;
mod idle;
mod intake;
mod joining;
mod operators;
mod outage;
mod own_redis;
mod pace;
mod paced;
mod placement;
mod privacy;
mod probe;
mod processes;
mod quarantine;
mod repair;
mod schedules;
mod senders;
mod smtp;
mod stale_bounces;
mod tallies;
