//! Leases between claim and settle: giving one back untried, and lengthening one.

use std::time::Duration;

use super::claim::{Lease, LeaseKey};
use super::raw::Text;
use super::scripts::{EXTEND, RELEASE, ms};
use super::{BATCH_MAX, Store, StoreError};

/// What became of a lease that was to be lengthened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extended {
    /// It lasts for its length from now on; but not for these jobs, by their ids in full, whose addresses were retired
    /// meanwhile.
    Yes(Vec<String>),
    /// It has lapsed: its jobs are somebody else's by now.
    Lapsed,
    /// The store did not answer; either deadline may be in force.
    Unknown,
}

/// Why a job is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenBack {
    /// It was not tried: it is due when it was due before.
    Untried,
    /// Its attempt crashed: it lapses at once, which counts towards quarantine.
    Crashed,
}

impl Store {
    /// Gives leased jobs back. Tells how many were given back; the others' tokens were stale, and nothing changed for them.
    pub async fn release(&self, leases: &[Lease], why: GivenBack) -> Result<usize, StoreError> {
        let mut released = 0;
        for (shard, leases) in self.by_shard(leases, |lease| lease.shard) {
            let mut call = self.call(&RELEASE, shard);
            for lease in leases {
                call.arg(&*lease.job)
                    .arg(lease.token)
                    .arg(lease.number)
                    .arg(lease.destination.as_str())
                    .arg(lease.due.ms())
                    .arg(if why == GivenBack::Crashed { "crashed" } else { "" });
            }
            let reply: Vec<i64> = self.connections.script(&call).await?;
            released += reply.iter().skip(1).filter(|done| **done == 1).count();
        }
        Ok(released)
    }

    /// Lets leases last for `length` from now on, by Redis's clock, and answers each in the order given. The answer for one
    /// shard says nothing of the others. Repeating it does no harm, so it may be asked again after [`Extended::Unknown`].
    pub async fn extend(&self, leases: &[LeaseKey], length: Duration) -> Vec<Extended> {
        let places: Vec<usize> = (0..leases.len()).collect();
        let mut answers = vec![Extended::Unknown; leases.len()];
        for (shard, places) in self.by_shard(&places, |place| leases[*place].shard) {
            let mut call = self.call(&EXTEND, shard);
            call.arg(ms(length));
            for lease in places.iter().map(|place| &leases[**place]) {
                call.arg(lease.token);
            }
            match self.connections.script::<(i64, Vec<i64>, Vec<(Text, Text)>)>(&call).await {
                Ok((_, extended, void)) => {
                    for (place, done) in places.into_iter().zip(extended) {
                        let token = leases[*place].token.to_string();
                        let of_lease = void.iter().filter(|(Text(of), _)| *of == token);
                        let void = of_lease.map(|(_, Text(id))| id.clone()).collect();
                        answers[*place] = if done == 1 { Extended::Yes(void) } else { Extended::Lapsed };
                    }
                }
                Err(err) => tracing::warn!(%err, shard, leases = places.len(), "leases could not be lengthened"),
            }
        }
        answers
    }

    /// Groups items by their shard, in batches that one script call takes.
    pub(super) fn by_shard<'a, T>(&self, items: &'a [T], shard: impl Fn(&'a T) -> u16) -> Vec<(u16, Vec<&'a T>)> {
        let mut shards: Vec<Vec<&T>> = (0..self.shards()).map(|_| Vec::new()).collect();
        for item in items {
            shards[usize::from(shard(item))].push(item);
        }
        let numbered = (0..self.shards()).zip(shards);
        numbered
            .flat_map(|(shard, items)| items.chunks(BATCH_MAX).map(|batch| (shard, batch.to_vec())).collect::<Vec<_>>())
            .collect()
    }
}
