//! Leases between claim and settle: giving one back untried, and lengthening one.

use std::time::Duration;

use super::claim::Lease;
use super::scripts::{EXTEND, RELEASE, ms};
use super::{BATCH_MAX, Store, StoreError};
use crate::clock::Timestamp;

impl Store {
    /// Gives leased jobs back untried, due when they were due before. Tells how many were given back; the others' tokens
    /// were stale, and nothing changed for them.
    pub async fn release(&self, leases: &[Lease]) -> Result<usize, StoreError> {
        let mut released = 0;
        for (shard, leases) in self.by_shard(leases, |lease| lease) {
            let mut call = self.call(&RELEASE, shard);
            for lease in leases {
                call.arg(lease.job.key()).arg(lease.destination.as_str()).arg(lease.token.ms()).arg(lease.due.ms());
            }
            let reply: Vec<i64> = self.connections.script(&call).await?;
            released += reply.iter().skip(1).filter(|done| **done == 1).count();
        }
        Ok(released)
    }

    /// Lengthens leases to `lease` from now. Answers each in the order given with its new token, or `None` where the old
    /// one was stale and the job is somebody else's by now.
    pub async fn extend(&self, leases: &[Lease], lease: Duration) -> Result<Vec<Option<Timestamp>>, StoreError> {
        let places: Vec<usize> = (0..leases.len()).collect();
        let mut tokens = vec![None; leases.len()];
        for (shard, places) in self.by_shard(&places, |place| &leases[*place]) {
            let mut call = self.call(&EXTEND, shard);
            call.arg(ms(lease));
            for place in &places {
                call.arg(leases[**place].job.key()).arg(leases[**place].token.ms());
            }
            let reply: Vec<i64> = self.connections.script(&call).await?;
            for (place, token) in places.into_iter().zip(reply.into_iter().skip(1)) {
                tokens[*place] = (token > 0).then(|| Timestamp::from_ms(token));
            }
        }
        Ok(tokens)
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
