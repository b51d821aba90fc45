//! Counts and logs what happens to addresses, jobs and destinations outside the schedule: standings
//! that change, leases that run out, jobs that go into quarantine, and breakers. A line names the
//! destination and the hash of the job, never an address.

use std::sync::Arc;
use std::time::Instant;

use domain::destination::Destination;
use domain::standing::Standing;
use system::limiter::Limiter;
use telemetry::ids::IdHasher;
use telemetry::metrics::Metrics;

use crate::raw::Text;

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

    /// Records the changes that a script has returned to be logged (`prelude.lua`): what changed,
    /// the destination and the job, for each change.
    pub(crate) fn note_changes(&self, changes: &[Text]) {
        for change in changes.chunks_exact(3) {
            let [Text(what), Text(destination), Text(job)] = change else {
                continue;
            };
            let destination = Destination::named(destination.as_str());
            match what.as_str() {
                "quarantined" => self.note_quarantined(&destination, job),
                "opened" => self.note_breaker(
                    &destination,
                    "opened",
                    "a breaker has opened: its destination gets no attempts for a while",
                ),
                "probed" => self.note_breaker(
                    &destination,
                    "probed",
                    "a breaker is half open: one attempt tries whether its destination is back",
                ),
                _ => self.note_breaker(
                    &destination,
                    "closed",
                    "a breaker has closed: its destination gets attempts again",
                ),
            }
        }
    }

    fn note_breaker(&self, destination: &Destination, breaker: &'static str, message: &str) {
        if let Some(left_out) = self.limiter.admit(breaker, Instant::now()) {
            tracing::info!(%destination, breaker, left_out, "{message}");
        }
    }

    fn note_quarantined(&self, destination: &Destination, job: &str) {
        if let Some(left_out) = self.limiter.admit("quarantined", Instant::now()) {
            let job = self.ids.hash(job);
            tracing::info!(
                %destination, job, left_out,
                "a job is in quarantine, because its leases ran out too often in a row"
            );
        }
    }
}
