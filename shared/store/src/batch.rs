//! How much one call of a script takes at most.

/// How many jobs one script call takes at most: it bounds how long a call keeps Redis from others.
pub const BATCH_MAX: usize = 500;

/// How many bytes of messages it takes at most, for the same reason; a single larger item goes
/// alone.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
