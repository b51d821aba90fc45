//! Quarantine: jobs that lapsed too often in a row and wait for an operator, because they may be
//! what crashes workers.

use deadpool_redis::redis::pipe;
use domain::clock::Timestamp;
use domain::job::JobId;
use futures::future::try_join_all;

use crate::batch::BATCH_MAX;
use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;
use crate::scripts::PUT_BACK;

/// A job in quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The job.
    pub job: JobId,
    /// Since when.
    pub since: Timestamp,
    /// How many times in a row it had lapsed; none if that is unknown.
    pub lapses: Option<u32>,
}

impl Quarantined {
    /// Returns its place in the order of all quarantined jobs. Redis too orders jobs of one instant
    /// by their ids.
    fn place(&self) -> (Timestamp, String) {
        (self.since, self.job.key())
    }
}

impl Store {
    /// Returns jobs of one shard that are in quarantine, those that have been there longest first.
    /// Skips the first `skip` and returns at most `most` (and never more than [`BATCH_MAX`]).
    pub async fn quarantined(
        &self,
        shard: u16,
        skip: usize,
        most: usize,
    ) -> Result<Vec<Quarantined>, StoreError> {
        Ok(self.quarantine_page(shard, skip, most).await?.1)
    }

    /// Like `quarantined`, with how many were read. A job whose id cannot be read is left out.
    async fn quarantine_page(
        &self,
        shard: u16,
        skip: usize,
        most: usize,
    ) -> Result<(usize, Vec<Quarantined>), StoreError> {
        let place = |n: usize| isize::try_from(n).unwrap_or(isize::MAX);
        let last = place(skip.saturating_add(most.min(BATCH_MAX))) - 1;
        if last < place(skip) {
            return Ok((0, Vec::new()));
        }
        let keys = self.keys.shard(shard);
        let (found,): (Vec<(Text, f64)>,) = self
            .connections
            .pipeline(pipe().zrange_withscores(keys.quarantine(), place(skip), last))
            .await?;
        if found.is_empty() {
            return Ok((0, Vec::new()));
        }
        let mut ask = pipe();
        ask.cmd("HMGET").arg(keys.lapses());
        for (Text(id), _) in &found {
            ask.arg(id);
        }
        let (lapses,): (Vec<Option<Text>>,) = self.connections.pipeline(&ask).await?;
        let read =
            |((Text(id), since), lapses): ((Text, f64), Option<Text>)| match JobId::from_key(&id) {
                Ok(job) => {
                    let lapses = lapses.and_then(|Text(lapses)| lapses.parse().ok());
                    Some(Quarantined {
                        job,
                        since: Timestamp::from_ms(since as i64),
                        lapses,
                    })
                }
                Err(why) => {
                    tracing::error!(
                        %why,
                        shard,
                        "a job in quarantine has an id that cannot be read, and is left out"
                    );
                    None
                }
            };
        Ok((
            found.len(),
            found.into_iter().zip(lapses).filter_map(read).collect(),
        ))
    }

    /// Returns jobs of all shards that are in quarantine, those that have been there longest first.
    /// At most `most` (and never more than [`BATCH_MAX`]), only those after `after` if it is given.
    /// The job `after` may have left quarantine.
    pub async fn quarantine(
        &self,
        after: Option<&Quarantined>,
        most: usize,
    ) -> Result<Vec<Quarantined>, StoreError> {
        let most = most.min(BATCH_MAX);
        let of_shards = (0..self.shards()).map(|shard| self.quarantined_after(shard, after, most));
        let mut found: Vec<Quarantined> = try_join_all(of_shards)
            .await?
            .into_iter()
            .flatten()
            .collect();
        found.sort_by_cached_key(Quarantined::place);
        found.truncate(most);
        Ok(found)
    }

    async fn quarantined_after(
        &self,
        shard: u16,
        after: Option<&Quarantined>,
        most: usize,
    ) -> Result<Vec<Quarantined>, StoreError> {
        let Some(after) = after else {
            return self.quarantined(shard, 0, most).await;
        };
        let key = self.keys.shard(shard).quarantine();
        let before = format!("({}", after.since.ms());
        let (mut seen,): (usize,) = self
            .connections
            .pipeline(pipe().zcount(key, "-inf", before))
            .await?;
        let mut found = Vec::new();
        // Jobs of one instant are bounded in number: one lapse puts at most a batch of them there.
        loop {
            let (read, page) = self.quarantine_page(shard, seen, most).await?;
            let is_last = read < most || read == 0;
            seen += read;
            found.extend(page.into_iter().filter(|one| one.place() > after.place()));
            if is_last || found.len() >= most {
                return Ok(found);
            }
        }
    }

    /// Takes a job out of quarantine: it is due now, and its lapses are forgotten. Returns whether
    /// it was there.
    pub async fn put_back(&self, id: &JobId) -> Result<bool, StoreError> {
        let destination = self.destinations(&[id.recipient.domain()]).await?.remove(0);
        let mut call = self.call(&PUT_BACK, destination.shard(self.shards()));
        call.arg("id", id.key())
            .arg("destination", destination.as_str());
        let (_, was_there): (i64, u8) = self.connections.script(&call).await?;
        Ok(was_there == 1)
    }
}
