//! The tools of the tests: a private Redis, a clock that only the test moves, mail systems that
//! follow a script, and the real scheduler and worker.
//!
//! A test never waits for time to pass. It moves the clock, or it waits for a condition with
//! [`wait::eventually`].

pub mod bounce;
pub mod certificates;
pub mod cluster;
pub mod dns;
pub mod faketime;
pub mod forgetful;
pub mod http;
pub mod lmtp;
pub mod mail;
pub mod objects;
pub mod otlp;
pub mod platform;
pub mod port;
pub mod postfix;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod random;
pub mod redis;
pub mod report;
pub mod sasl;
pub mod servers;
pub mod smtp;
pub mod wait;
pub mod world;
