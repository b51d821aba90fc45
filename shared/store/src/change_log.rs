//! Counts and logs what happens to addresses and jobs outside the schedule: standings that change,
//! and leases that run out. A line names the destination and the hash of the job, never an address.

use std::sync::Arc;
use std::time::Instant;

use domain::destination::Destination;
use domain::standing::Standing;
use telemetry::ids::IdHasher;
use telemetry::limiter::Limiter;
use telemetry::metrics::Metrics;

/// Records the changes that one process makes.
#[derive(Clone, Debug)]
pub(crate) struct ChangeLog {
    pub(crate) ids: IdHasher,
    limiter: Arc<Limiter>,
    metrics: Metrics,
}

impl ChangeLog {
    /// `key` is the key of the hashes.
    pub(crate) fn new(key: &[u8], metrics: Metrics) -> Self {
        Self {
            ids: IdHasher::new(key),
            limiter: Arc::default(),
            metrics,
        }
    }

    /// Records that an address has another standing now.
    pub(crate) fn note_standing(&self, job: &str, destination: &Destination, standing: Standing) {
        self.metrics.standing_changed(standing, 1);
        let standing = standing.as_str();
        if let Some(left_out) = self.limiter.admit(standing, Instant::now()) {
            let job = self.ids.hash(job);
            tracing::info!(
                %destination, job, standing, left_out,
                "the standing of an address has changed"
            );
        }
    }

    /// Records that leases ran out before their attempts were settled.
    pub(crate) fn note_lapses(&self, shard: u16, jobs: u64) {
        self.metrics.lapsed(jobs);
        if jobs > 0
            && let Some(left_out) = self.limiter.admit("lapsed", Instant::now())
        {
            tracing::info!(
                shard,
                jobs,
                left_out,
                "leases ran out, and their jobs are due again"
            );
        }
    }
}
