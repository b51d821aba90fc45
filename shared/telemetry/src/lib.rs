//! What a process reports about itself: its log, the traces of retry chains, and metrics. Addresses
//! are personal data and appear in none of them.

mod budget;
mod current;
pub mod endpoint;
mod environment;
mod failure;
pub mod ids;
mod line;
pub mod log;
mod logs;
pub mod metrics;
pub mod names;
mod outage;
pub mod pipeline;
mod protobuf;
mod queue;
mod reactor;
mod sampling;
mod sender;
pub mod settings;
pub mod spans;
pub mod traceparent;
mod transport;
mod unsupported;
mod variables;
mod words;

pub use budget::Lost;
