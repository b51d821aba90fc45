//! Connections to Redis: a pool that hides whether there is one server, a Cluster, or a master that
//! sentinels watch.

mod dialer;
mod durability;
pub mod fault;
mod link;
pub mod pool;
mod sentinel;
pub mod server_facts;
pub mod servers;
pub mod settings;
mod silence;
