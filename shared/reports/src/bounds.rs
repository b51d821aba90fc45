//! Limits on how much is kept of texts from other systems.

/// The largest number of recipients kept of one report.
pub const MAX_RECIPIENTS: usize = 1000;

/// How much of the text about a recipient is kept, in bytes.
pub const MAX_DIAGNOSTIC: usize = 4 * 1024;

/// How much of a name from another system (an id, a host, an address) is kept, in bytes.
pub const MAX_NAME: usize = 1024;
