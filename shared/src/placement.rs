//! Which destination an address belongs to. This is decided here once per domain and then kept in the
//! store. Only the scheduler asks the DNS.

mod load;
pub mod propose;
pub mod providers;
