//! The store: jobs, leases, standings and the journal in Redis. It moves jobs and never chooses a
//! retry.
//!
//! Each verb has a file here and a script of the same name in `lua/`. A batch is one call per
//! shard.

pub mod address;
mod argument_lists;
pub mod batch;
mod change_log;
pub mod claim;
pub mod connection;
mod dead_routes;
pub mod destination_controls;
pub mod destination_list;
pub mod entry_id;
pub mod error;
pub mod facts;
pub mod fleet;
pub mod handle;
mod history;
pub mod intake;
pub mod job_events;
pub mod journal;
pub mod keys;
pub mod lease;
pub mod lease_token;
pub mod limits;
pub mod look;
pub mod losses;
pub mod meta;
pub mod over_shards;
pub mod peers;
pub mod place;
pub mod places;
pub mod quarantine;
mod raw;
pub mod refute;
pub mod repair;
pub mod schedule;

mod script_args;
mod script_call;
pub mod scripts;
pub mod seen_webhooks;
pub mod server_checks;
pub mod settle;
pub mod tally;
pub mod under_way;
pub mod upkeep;
pub mod wait_reason;
pub mod workers;
