//! How much is kept of what others wrote.

/// How many recipients of a report are kept.
pub const MAX_RECIPIENTS: usize = 1000;

/// How much of what was said about a recipient is kept, in bytes.
pub const MAX_DIAGNOSTIC: usize = 4 * 1024;

/// How much of a name that someone else chose (an id, a host, an address) is kept, in bytes.
pub const MAX_NAME: usize = 1024;
