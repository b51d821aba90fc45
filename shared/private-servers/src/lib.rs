//! Servers that dev, the demo, benches and tests start for themselves. Each ends with the value
//! that stands for it.

pub mod postfix;
pub mod redis;
