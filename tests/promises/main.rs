//! Redeliver's promises, a module each. What a test's name says is what must hold.

mod addresses;
mod drain;
mod events;
mod expiry;
mod fencing;
mod intake;
mod joining;
mod outage;
mod probe;
mod schedules;
mod smtp;
mod stale_bounces;
