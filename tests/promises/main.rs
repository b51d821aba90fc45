//! Redeliver's promises, a module each. What a test's name says is what must hold.

#![allow(clippy::unwrap_used, reason = "all of this is tests, the functions that they share too")]

mod addresses;
mod bounds;
mod breaker;
mod drain;
mod events;
mod expiry;
mod fencing;
mod final_events;
mod holds;
mod intake;
mod joining;
mod outage;
mod pace;
mod paced;
mod privacy;
mod probe;
mod processes;
mod quarantine;
mod schedules;
mod smtp;
mod stale_bounces;
mod tallies;
