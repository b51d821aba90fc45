//! Private servers that dev, the demo, benches and tests start for themselves. Each server ends
//! when its value is dropped.

pub mod postfix;
pub mod redis;
