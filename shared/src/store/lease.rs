//! Leases between claim and settle: giving one back untried, and lengthening one.

use super::claim::Lease;
use super::scripts::{EXTEND, RELEASE};
use super::{BATCH_MAX, Store, StoreError};
use crate::clock::Timestamp;

/// What became of a lease that was to be lengthened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    /// It ends at the new deadline.
    Yes,
    /// Its token was stale: the job is somebody else's by now.
    Stale,
    /// The store did not answer; either deadline may be in force.
    Unknown,
}

impl Store {
    /// Gives leased jobs back untried, due when they were due before. Tells how many were given back; the others' tokens
    /// were stale, and nothing changed for them.
    pub async fn release(&self, leases: &[Lease]) -> Result<usize, StoreError> {
        let mut released = 0;
        for (shard, leases) in self.by_shard(leases, |lease| lease) {
            let mut call = self.call(&RELEASE, shard);
            for lease in leases {
                call.arg(lease.job.key())
                    .arg(lease.destination.as_str())
                    .arg(lease.token.ms())
                    .arg(optional_ms(lease.proposed))
                    .arg(lease.due.ms());
            }
            let reply: Vec<i64> = self.connections.script(&call).await?;
            released += reply.iter().skip(1).filter(|done| **done == 1).count();
        }
        Ok(released)
    }

    /// Lengthens leases to new deadlines, and answers each in the order given. The answer for one shard says nothing of the
    /// others. Whoever gets [`Extended::Unknown`] notes the deadline in [`Lease::proposed`] and may ask for it again.
    pub async fn extend(&self, leases: &[(Lease, Timestamp)]) -> Vec<Extended> {
        let places: Vec<usize> = (0..leases.len()).collect();
        let mut answers = vec![Extended::Unknown; leases.len()];
        for (shard, places) in self.by_shard(&places, |place| &leases[*place].0) {
            let mut call = self.call(&EXTEND, shard);
            for (lease, deadline) in places.iter().map(|place| &leases[**place]) {
                call.arg(lease.job.key()).arg(lease.token.ms()).arg(optional_ms(lease.proposed)).arg(deadline.ms());
            }
            match self.connections.script::<Vec<i64>>(&call).await {
                Ok(reply) => {
                    for (place, done) in places.into_iter().zip(reply.into_iter().skip(1)) {
                        answers[*place] = if done == 1 { Extended::Yes } else { Extended::Stale };
                    }
                }
                Err(err) => tracing::warn!(%err, shard, leases = places.len(), "leases could not be lengthened"),
            }
        }
        answers
    }

    /// Groups items by the shard of their lease, in batches that one script call takes.
    pub(super) fn by_shard<'a, T>(&self, items: &'a [T], lease: impl Fn(&'a T) -> &'a Lease) -> Vec<(u16, Vec<&'a T>)> {
        let mut shards: Vec<Vec<&T>> = (0..self.shards()).map(|_| Vec::new()).collect();
        for item in items {
            shards[usize::from(lease(item).destination.shard(self.shards()))].push(item);
        }
        let numbered = (0..self.shards()).zip(shards);
        numbered
            .flat_map(|(shard, items)| items.chunks(BATCH_MAX).map(|batch| (shard, batch.to_vec())).collect::<Vec<_>>())
            .collect()
    }
}

/// An instant as the scripts take one that may be missing.
pub(super) fn optional_ms(at: Option<Timestamp>) -> String {
    at.map(|at| at.ms().to_string()).unwrap_or_default()
}
