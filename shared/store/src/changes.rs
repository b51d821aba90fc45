//! Counts and logs what happens to addresses and jobs outside the schedule: standings that change,
//! and leases that run out. A line names the destination and the hash of the job, never an address.

use std::time::Instant;

use domain::destination::Destination;
use domain::standing::Standing;
use telemetry::ids::IdHasher;

use crate::change_log::ChangeLog;
use crate::handle::Store;

impl Store {
    /// Returns the same store. In logs and traces, hashes under this key stand for addresses.
    #[must_use]
    pub fn with_address_key(mut self, key: &[u8]) -> Self {
        self.changes = ChangeLog::new(key);
        self
    }

    /// Returns what makes the hashes that stand for addresses in logs and traces.
    pub fn ids(&self) -> &IdHasher {
        &self.changes.ids
    }

    /// Records that an address has another standing now.
    pub(crate) fn note_standing(&self, job: &str, destination: &Destination, standing: Standing) {
        self.metrics().standing_changed(standing, 1);
        if let Some(left_out) = self
            .changes
            .limiter
            .admit(standing.as_str(), Instant::now())
        {
            let job = self.ids().hash(job);
            tracing::info!(
                %destination, job, standing = standing.as_str(), left_out,
                "the standing of an address has changed"
            );
        }
    }

    /// Records that leases ran out before their attempts were settled.
    pub(crate) fn note_lapses(&self, shard: u16, jobs: u64) {
        self.metrics().lapsed(jobs);
        if jobs > 0
            && let Some(left_out) = self.changes.limiter.admit("lapsed", Instant::now())
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
