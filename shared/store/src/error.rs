//! The error of the store.

/// Why the store did not do what was asked. The variants differ in what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Redis could not be reached, or is not ready: try again later. It is unknown whether the call
    /// took effect.
    #[error("redis does not answer: {0}")]
    Unavailable(String),
    /// Our Redis user lacks the rights for this: try again when an operator has granted them.
    #[error("redis does not allow it: {0}")]
    Forbidden(String),
    /// Redis refused the call, or its answer is one that this version does not understand. A
    /// repeated call fails in the same way.
    #[error(
        "redis refused: {0}; check the data under redis.prefix, \
         and which versions of redeliver use it"
    )]
    Refused(String),
    /// The facts are stored, but a worker has not yet stopped sending to an address that they
    /// suppress: report them again.
    #[error(
        "this is stored, but a worker is still sending to an address that it suppresses; \
         tell it again"
    )]
    UnderWay,
    /// The data belongs to a store of another shape.
    #[error("{0}")]
    Mismatch(String),
}

impl StoreError {
    /// Whether the same call can succeed later. If so, its data must be kept and not dropped.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::Forbidden(_) | Self::UnderWay
        )
    }
}
