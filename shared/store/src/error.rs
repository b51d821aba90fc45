//! Why the store did not do what was asked.

/// Why the store did not do what was asked, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Redis could not be reached, or is not ready: try again later. Whether the call took effect
    /// is unknown.
    #[error("redis does not answer: {0}")]
    Unavailable(String),
    /// Redis does not let our user do this: try again when an operator has allowed it.
    #[error("redis does not allow it: {0}")]
    Forbidden(String),
    /// Redis refused the call, or answered what this version does not understand: it will be the
    /// same the next time.
    #[error(
        "redis refused: {0}; look at the data of this redis.prefix, and at which versions of redeliver use it"
    )]
    Refused(String),
    /// What was told is in, and a worker has not stopped sending yet to an address that it
    /// suppresses: tell it again.
    #[error(
        "what was told is in, but a worker is still sending to an address that it suppresses; tell it again"
    )]
    UnderWay,
    /// The data belongs to a store of another shape.
    #[error("{0}")]
    Mismatch(String),
}

impl StoreError {
    /// Whether the same call can succeed later, so that what it says has to be kept and must not be
    /// dropped.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::Forbidden(_) | Self::UnderWay
        )
    }
}
