//! Policy: which failures are worth retrying, how often and how far apart, and what becomes of the address when
//! retrying ends. [`default.toml`](self) is the reference table; [`decide()`] applies it. All of it is pure.

pub mod decide;
pub mod jitter;
pub mod load;
mod ranking;
pub mod row;
pub mod rulings;
pub mod table;

pub use decide::{Case, Decision, Verdict, decide};
pub use row::{Class, Final, Row, Scope};
pub use rulings::Rulings;
pub use table::Table;
