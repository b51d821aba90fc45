//! The promises of Redeliver, one module each. The name of each test states what must hold.

#![allow(
    clippy::unwrap_used,
    reason = "all of this is tests, the functions that they share too"
)]

mod access;
mod addresses;
mod batches;
mod benches;
mod bounds;
mod breaker;
mod clocks;
mod clustered;
mod confirm;
mod conformance;
mod connections;
mod content;
mod corrupt;
mod deployments;
mod destination_list;
mod drain;
mod durability;
mod events;
mod every_script;
mod expiry;
mod facts;
mod faults;
mod fencing;
mod final_events;
mod fleet;
mod floods;
mod forgotten_scripts;
mod full_disk;
mod full_memory;
mod hanging;
mod holds;
mod hooks;
mod idle;
mod intake;
mod joining;
mod lmtp_clients;
mod lost_writes;
mod mx;
mod operators;
mod outage;
mod own_redis;
mod pace;
mod paced;
mod placement;
mod postfix;
mod privacy;
mod probe;
mod processes;
mod quarantine;
mod repair;
mod repeated_keys;
mod reports;
mod return_path;
mod returned_mail;
mod schedules;
mod script_calls;
mod senders;
mod server_settings;
mod smtp;
mod stale_bounces;
mod stream;
mod submit;
mod suppression;
mod tallies;
mod traces;
mod unproven;
mod unreadable;
mod waits;
mod whose_fault;
