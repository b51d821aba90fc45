//! Leases between claim and settle: giving jobs back, extending leases, and reporting that a host
//! does not answer.

use std::time::Duration;

use deadpool_redis::redis::Value;
use domain::destination::Destination;
use system::limiter::admit_outage;

use crate::batch::BATCH_MAX;
use crate::claim::{Lease, LeaseKey};
use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::{Text, values};
use crate::scripts::{EXTEND, RELEASE, SILENT, ms};

/// The result of extending a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extended {
    /// It lasts for its length from now on, except for these jobs, by their full ids: their
    /// addresses were retired meanwhile.
    Yes(Vec<String>),
    /// It has lapsed: other workers may have its jobs by now.
    Lapsed,
    /// The store did not answer. Either deadline may be in force.
    Unknown,
}

/// Why a job is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseReason {
    /// It was not tried: it gets its earlier due time back.
    Untried,
    /// Its attempt crashed: it lapses at once, which counts towards quarantine.
    Crashed,
    /// Its host had not answered for this long, and other jobs need the room. It gets its earlier
    /// due time back. The breaker of its destination opens, unless other attempts there were
    /// answered meanwhile.
    Unanswered(Duration),
}

impl Store {
    /// Gives leased jobs back. Returns how many were given back. The tokens of the others were
    /// stale, and nothing changed for them.
    pub async fn release(&self, leases: &[Lease], why: ReleaseReason) -> Result<usize, StoreError> {
        let mut released = 0;
        let reason = match why {
            ReleaseReason::Untried => String::new(),
            ReleaseReason::Crashed => "crashed".to_owned(),
            ReleaseReason::Unanswered(waited) => ms(waited).to_string(),
        };
        for (shard, leases) in self.by_shard(leases, |lease| lease.shard) {
            let mut call = self.call(&RELEASE, shard);
            for lease in leases {
                call.arg("id", &*lease.job)
                    .arg("token", lease.token)
                    .arg("number", lease.number)
                    .arg("destination", lease.destination.as_str())
                    .arg("due", lease.due.ms())
                    .arg("why", &reason);
            }
            let reply: Vec<Value> = self.connections.script(&call).await?;
            let done = Value::Int(1);
            let count = reply.iter().skip(2).filter(|one| **one == done).count();
            if matches!(why, ReleaseReason::Crashed) {
                self.changes.note_lapses(shard, count as u64);
            }
            let changes = reply.into_iter().nth(1).map(values).unwrap_or_default();
            let changes: Vec<Text> = changes.iter().map(Text::from).collect();
            self.changes.note_changes(&changes);
            released += count;
        }
        Ok(released)
    }

    /// Extends leases for `length` from now on, by Redis's clock. Returns the result of each in the
    /// order given. The shards are independent: one may fail while others succeed. Repeating it
    /// does no harm, so a caller may retry after [`Extended::Unknown`].
    pub async fn extend(&self, leases: &[LeaseKey], length: Duration) -> Vec<Extended> {
        let places: Vec<usize> = (0..leases.len()).collect();
        let mut answers = vec![Extended::Unknown; leases.len()];
        for (shard, places) in self.by_shard(&places, |place| leases[*place].shard) {
            let mut call = self.call(&EXTEND, shard);
            call.arg("length", ms(length));
            for lease in places.iter().map(|place| &leases[**place]) {
                call.arg("token", lease.token);
            }
            match self
                .connections
                .script::<(i64, Vec<i64>, Vec<(Text, Text)>)>(&call)
                .await
            {
                Ok((_, extended, void)) => {
                    for (place, done) in places.into_iter().zip(extended) {
                        let token = leases[*place].token.to_string();
                        let of_lease = void.iter().filter(|(Text(of), _)| *of == token);
                        let void = of_lease.map(|(_, Text(id))| id.clone()).collect();
                        answers[*place] = if done == 1 {
                            Extended::Yes(void)
                        } else {
                            Extended::Lapsed
                        };
                    }
                }
                Err(err) => {
                    if let Some(left_out) = admit_outage("leases that are not extended") {
                        tracing::warn!(
                            %err,
                            shard,
                            leases = places.len(),
                            left_out,
                            "leases could not be extended"
                        );
                    }
                }
            }
        }
        answers
    }

    /// Reports that attempts at these destinations of one shard have waited this long for an
    /// answer. Returns for each whether it is silent: no attempt there got an answer in that time.
    /// A silent destination gets no more attempts for some seconds.
    pub async fn note_silence(
        &self,
        shard: u16,
        waiting: &[(Destination, Duration)],
    ) -> Result<Vec<bool>, StoreError> {
        let mut silent = Vec::with_capacity(waiting.len());
        for batch in waiting.chunks(BATCH_MAX) {
            let mut call = self.call(&SILENT, shard);
            for (destination, waited) in batch {
                call.arg("destination", destination.as_str())
                    .arg("waited", ms(*waited));
            }
            let reply: Vec<i64> = self.connections.script(&call).await?;
            silent.extend(reply.into_iter().skip(1).map(|is_silent| is_silent == 1));
        }
        Ok(silent)
    }

    /// Groups items by their shard, in batches that one script call takes.
    pub(crate) fn by_shard<'a, T>(
        &self,
        items: &'a [T],
        shard: impl Fn(&'a T) -> u16,
    ) -> Vec<(u16, Vec<&'a T>)> {
        let mut shards: Vec<Vec<&T>> = (0..self.shards()).map(|_| Vec::new()).collect();
        for item in items {
            shards[usize::from(shard(item))].push(item);
        }
        let numbered = (0..self.shards()).zip(shards);
        numbered
            .flat_map(|(shard, items)| {
                items
                    .chunks(BATCH_MAX)
                    .map(|batch| (shard, batch.to_vec()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}
