//! The leases that a worker holds: which of their jobs have attempts under way, and when each lease
//! ends. Nothing here calls the store.

use std::collections::HashMap;
use std::time::Duration;

use senders::contact::Contact;
use senders::lease_end::LeaseEnd;
use store::claim::{Lease, LeaseKey};
use store::lease::Extended;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// The position of a job in its lease.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The lease.
    pub lease: LeaseKey,
    /// The job's number in the claim, from 0.
    pub number: usize,
}

/// A leased job whose attempt is under way.
pub struct HeldJob {
    /// The right to attempt the job, which comes from the lease.
    pub lease: Lease,
    /// Cancels its attempt.
    pub cancel: CancellationToken,
    /// Shows since when its host has been silent.
    pub contact: Contact,
    /// Its place among the attempts that may hang, if it has one.
    pub place: Option<OwnedSemaphorePermit>,
}

/// A lease that this worker holds.
pub struct HeldLease {
    key: LeaseKey,
    /// All jobs of the claim, in its order. A job is replaced by `None` when its attempt has ended
    /// or was cancelled.
    open: Vec<Option<HeldJob>>,
    /// How many jobs `open` still contains.
    open_count: usize,
    end: LeaseEnd,
}

impl HeldLease {
    /// Returns a lease of these jobs, in the order of the claim. `end` moves forward whenever the
    /// lease is extended. If the lease is lost for a job, its attempt is cancelled, so that nothing
    /// more is sent.
    pub fn new(key: LeaseKey, jobs: Vec<HeldJob>, end: LeaseEnd) -> Self {
        let open_count = jobs.len();
        Self {
            key,
            open: jobs.into_iter().map(Some).collect(),
            open_count,
            end,
        }
    }

    /// Cancels the attempts of the jobs with these full ids, and removes the jobs. Returns how many
    /// jobs the lease still has.
    fn cancel_jobs(&mut self, ids: &[String]) -> usize {
        for entry in &mut self.open {
            if let Some(job) = entry.take_if(|job| ids.iter().any(|id| **id == *job.lease.job)) {
                job.cancel.cancel();
                self.open_count -= 1;
            }
        }
        self.open_count
    }
}

/// All leases of a worker.
#[derive(Default)]
pub(super) struct HeldLeases(HashMap<LeaseKey, HeldLease>);

impl HeldLeases {
    /// Adds a lease.
    pub(super) fn insert(&mut self, held: HeldLease) {
        self.0.insert(held.key, held);
    }

    /// Returns the jobs whose attempts have not ended.
    pub(super) fn open_jobs(&mut self) -> impl Iterator<Item = &mut HeldJob> {
        self.0
            .values_mut()
            .flat_map(|held| held.open.iter_mut().flatten())
    }

    /// Removes the job in this slot, because its attempt has ended. Removes the lease too if it has
    /// no job left. Does nothing if the lease is no longer held.
    pub(super) fn remove(&mut self, slot: Slot) {
        let Some(held) = self.0.get_mut(&slot.lease) else {
            return;
        };
        if held
            .open
            .get_mut(slot.number)
            .and_then(Option::take)
            .is_some()
        {
            held.open_count -= 1;
        }
        if held.open_count == 0 {
            self.0.remove(&slot.lease);
        }
    }

    /// Returns the leases, grouped by shard.
    pub(super) fn by_shard(&self) -> HashMap<u16, Vec<LeaseKey>> {
        let mut by_shard: HashMap<u16, Vec<_>> = HashMap::new();
        for key in self.0.keys() {
            by_shard.entry(key.shard).or_default().push(*key);
        }
        by_shard
    }

    /// Records whether a lease was extended by `length`, counted from `asked_at`. Cancels the
    /// attempts whose lease is lost.
    pub(super) fn note_extended(
        &mut self,
        key: LeaseKey,
        asked_at: Duration,
        length: Duration,
        extended: &Extended,
    ) {
        match extended {
            // The addresses of the void jobs were retired or suppressed.
            Extended::Yes(void) => {
                let Some(held) = self.0.get_mut(&key) else {
                    return;
                };
                held.end.extend(asked_at, length);
                if !void.is_empty() && held.cancel_jobs(void) == 0 {
                    self.0.remove(&key);
                }
            }
            // The settler tries again when it next extends leases.
            Extended::Unknown => {}
            Extended::Lapsed => {
                if let Some(held) = self.0.remove(&key) {
                    tracing::warn!(
                        attempts = held.open_count,
                        "a lease ran out during its attempts; they are cancelled"
                    );
                    held.open
                        .iter()
                        .flatten()
                        .for_each(|job| job.cancel.cancel());
                }
            }
        }
    }
}
