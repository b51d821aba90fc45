//! Redeliver's promises, a module each. What a test's name says is what must hold.

mod expiry;
mod fencing;
mod joining;
mod probe;
mod schedules;
mod stale_bounces;
