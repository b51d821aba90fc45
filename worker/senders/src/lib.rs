//! The senders. Each turns one delivery attempt into one outcome, and owns its settings. They know
//! neither the store, nor the policy, nor the rest of the configuration.

pub mod attempt;
pub mod command;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod contact;
pub mod http;
pub mod idempotency_scope;
pub mod in_doubt;
pub mod lease_end;
pub mod log;
pub mod mx;
pub mod sender;
pub mod settings;
pub mod smtp;
