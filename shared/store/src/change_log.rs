//! What lines about changed standings and lapsed leases need: hashes instead of addresses, and a
//! limit on how many lines are written.

use std::sync::Arc;

use telemetry::ids::IdHasher;
use telemetry::limiter::Limiter;

/// The hasher and the limiter of one store.
#[derive(Clone, Debug)]
pub(crate) struct ChangeLog {
    pub(crate) ids: IdHasher,
    pub(crate) limiter: Arc<Limiter>,
}

impl ChangeLog {
    pub(crate) fn new(key: &[u8]) -> Self {
        Self {
            ids: IdHasher::new(key),
            limiter: Arc::default(),
        }
    }
}
