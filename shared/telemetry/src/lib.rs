//! What a process reports about itself: its log, the traces of retry chains, and metrics. Addresses
//! are personal data and appear in none of them.

mod budget;
pub mod ids;
pub mod limiter;
mod line;
pub mod log;
pub mod metrics;
pub mod names;
pub mod pipeline;
mod sampler;
pub mod settings;
pub mod spans;
pub mod traceparent;
mod words;

pub use budget::Lost;
