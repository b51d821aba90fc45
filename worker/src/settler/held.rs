//! The leases that a worker holds: which of their jobs have attempts under way, and until when.

use std::collections::HashMap;
use std::time::Duration;

use senders::contact::Contact;
use senders::lease_end::LeaseEnd;
use store::claim::{Lease, LeaseKey};
use store::lease::Extended;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// Which of the jobs of a lease: its number in the claim.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The lease.
    pub lease: LeaseKey,
    /// The job's number.
    pub number: usize,
}

/// A job that is leased, while its attempt goes on.
pub struct HeldJob {
    /// Its part of the lease.
    pub lease: Lease,
    /// What stops its attempt.
    pub cut: CancellationToken,
    /// Since when its host has been silent.
    pub contact: Contact,
    /// Its place in the share of attempts that may hang.
    pub place: Option<OwnedSemaphorePermit>,
}

/// A lease while it is held.
pub struct HeldLease {
    key: LeaseKey,
    /// The jobs whose attempts have not ended, by their number.
    open: Vec<Option<HeldJob>>,
    left: usize,
    end: LeaseEnd,
}

impl HeldLease {
    /// The lease on these jobs. A job's attempt is cut off when the lease is lost for it, so that
    /// nothing more is sent. `end` is moved on as the lease is lengthened.
    pub fn new(key: LeaseKey, jobs: Vec<HeldJob>, end: LeaseEnd) -> Self {
        let left = jobs.len();
        Self {
            key,
            open: jobs.into_iter().map(Some).collect(),
            left,
            end,
        }
    }

    /// Stops the attempts of these jobs, by their ids in full, and holds the lease for the others
    /// alone. Tells how many those are.
    fn let_go(&mut self, void: &[String]) -> usize {
        for slot in &mut self.open {
            if let Some(job) = slot.take_if(|job| void.iter().any(|id| **id == *job.lease.job)) {
                job.cut.cancel();
                self.left -= 1;
            }
        }
        self.left
    }
}

/// All leases of a worker.
#[derive(Default)]
pub(super) struct HeldLeases(HashMap<LeaseKey, HeldLease>);

impl HeldLeases {
    /// Holds one more.
    pub(super) fn take(&mut self, held: HeldLease) {
        self.0.insert(held.key, held);
    }

    /// The jobs whose attempts have not ended.
    pub(super) fn open_jobs(&mut self) -> impl Iterator<Item = &mut HeldJob> {
        self.0
            .values_mut()
            .flat_map(|held| held.open.iter_mut().flatten())
    }

    /// The attempt in this slot has ended. A lease of which no job is left is held no more.
    pub(super) fn close(&mut self, slot: Slot) {
        let Some(held) = self.0.get_mut(&slot.lease) else {
            return;
        };
        if held
            .open
            .get_mut(slot.number)
            .and_then(Option::take)
            .is_some()
        {
            held.left -= 1;
        }
        if held.left == 0 {
            self.0.remove(&slot.lease);
        }
    }

    /// The leases, by shard.
    pub(super) fn by_shard(&self) -> HashMap<u16, Vec<LeaseKey>> {
        let mut by_shard: HashMap<u16, Vec<_>> = HashMap::new();
        for key in self.0.keys() {
            by_shard.entry(key.shard).or_default().push(*key);
        }
        by_shard
    }

    /// What became of a lease that was to last for `length` from when it was asked for. Attempts
    /// whose lease is lost are stopped.
    pub(super) fn note_extended(
        &mut self,
        key: LeaseKey,
        asked_at: Duration,
        length: Duration,
        extended: &Extended,
    ) {
        match extended {
            Extended::Yes(void) => {
                let Some(held) = self.0.get_mut(&key) else {
                    return;
                };
                held.end.extend(asked_at, length);
                if !void.is_empty() && held.let_go(void) == 0 {
                    self.0.remove(&key);
                }
            }
            // It is asked for again at the next beat.
            Extended::Unknown => {}
            Extended::Lapsed => {
                if let Some(held) = self.0.remove(&key) {
                    tracing::warn!(
                        attempts = held.left,
                        "a lease ran out while its attempts went on; they are stopped"
                    );
                    held.open.iter().flatten().for_each(|job| job.cut.cancel());
                }
            }
        }
    }
}
