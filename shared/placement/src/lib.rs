//! Decides which destination an address belongs to: by the list of providers, or by the mail hosts
//! of its domain. The decision is made once per domain and then kept in the store. Only the
//! scheduler queries the DNS.

pub mod load;
pub mod propose;
pub mod providers;
