//! The data types of the field: bounces and replies as they arrive, jobs as they wait, and the
//! outcomes of attempts. Everything is pure: no I/O, no machine clock, no environment.
//!
//! The modules are listed in reading order.

pub mod account;
pub mod address;
pub mod bounce;
pub mod clock;
pub mod destination;
pub mod event;
pub mod evidence;
pub mod exchange;
pub mod fact;
pub mod job;
pub mod outcome;
pub mod pace;
pub mod reply;
pub mod standing;
pub mod status;
pub mod tally;
pub mod transcript;
