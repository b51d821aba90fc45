//! What a process reports about itself: its log, the traces of retry chains, and metrics. Addresses
//! are personal data and appear in none of them.

mod budget;
mod current;
mod environment;
pub mod ids;
pub mod limiter;
mod line;
pub mod log;
mod logs;
pub mod metrics;
pub mod names;
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
mod variables;
mod words;

pub use budget::Lost;
