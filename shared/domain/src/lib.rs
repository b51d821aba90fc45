//! The words of the field: bounces and replies as they come in, jobs as they wait, and what came of
//! them. All of it is pure: no I/O, no clock of the machine, no environment.
//!
//! The modules are listed in reading order.

pub mod account;
pub mod address;
pub mod bounce;
pub mod clock;
pub mod destination;
pub mod event;
pub mod fact;
pub mod job;
pub mod outcome;
pub mod pace;
pub mod reply;
pub mod standing;
pub mod status;
pub mod tally;
pub mod transcript;
