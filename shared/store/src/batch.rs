//! The limits of one script call.

/// How many jobs one script call takes at most. This bounds how long a call blocks Redis for other
/// calls.
pub const BATCH_MAX: usize = 500;

/// How many bytes of messages one script call takes at most, for the same reason. A single larger
/// item gets a call of its own.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
