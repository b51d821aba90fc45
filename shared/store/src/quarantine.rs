//! Quarantine: jobs that lapsed too often in a row and wait for an operator, because they may be
//! what crashes workers.

use deadpool_redis::redis::pipe;
use domain::account::{Account, Accounts};
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

/// A place in the list of quarantined jobs, which is in the order of their instants. Jobs of one
/// instant are in the order of their ids, as in Redis.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuarantinePlace {
    /// The instant.
    pub since: Timestamp,
    /// The id of a job, or its beginning, which comes before it. Empty: before all jobs of the
    /// instant.
    pub id: String,
}

/// A part of the list of quarantined jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinePage {
    /// The jobs, in the order of the list.
    pub jobs: Vec<Quarantined>,
    /// Where to continue; none at the end of the list.
    pub next: Option<QuarantinePlace>,
}

impl Quarantined {
    /// Returns its place in the list.
    fn place(&self) -> QuarantinePlace {
        QuarantinePlace {
            since: self.since,
            id: self.job.key(),
        }
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

    /// Returns jobs of these accounts that are in quarantine, on all shards, those that have been
    /// there longest first. At most `most` (and never more than [`BATCH_MAX`]), only those after
    /// `after` if it is given. The job at `after` may have left quarantine.
    ///
    /// One call looks at a bounded number of jobs. So a page before the end may be short or empty,
    /// unless it is for all accounts.
    pub async fn quarantine(
        &self,
        accounts: &Accounts,
        after: Option<&QuarantinePlace>,
        most: usize,
    ) -> Result<QuarantinePage, StoreError> {
        let most = most.min(BATCH_MAX);
        let looked_at = match accounts {
            Accounts::All => most,
            Accounts::These(_) => BATCH_MAX,
        };
        let mut jobs = self.quarantine_of_all(after, looked_at).await?;
        let next = jobs
            .last()
            .filter(|_| jobs.len() == looked_at)
            .map(|last| next_place(accounts, last));
        jobs.retain(|one| accounts.allow(&one.job.account));
        let is_cut = jobs.len() > most;
        jobs.truncate(most);
        let next = if is_cut {
            jobs.last().map(Quarantined::place)
        } else {
            next
        };
        Ok(QuarantinePage { jobs, next })
    }

    async fn quarantine_of_all(
        &self,
        after: Option<&QuarantinePlace>,
        most: usize,
    ) -> Result<Vec<Quarantined>, StoreError> {
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
        after: Option<&QuarantinePlace>,
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
            found.extend(page.into_iter().filter(|one| one.place() > *after));
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
            .arg("destination", destination.as_str())
            .arg("by", self.by());
        let (_, was_there): (i64, u8) = self.connections.script(&call).await?;
        Ok(was_there == 1)
    }
}

/// Returns the place after the job that was looked at last. If the job is of another account than
/// these, the place must not reveal it: it is the place before the next job that these accounts
/// could have.
fn next_place(accounts: &Accounts, last: &Quarantined) -> QuarantinePlace {
    let these = match accounts {
        Accounts::These(these) if !these.contains(&last.job.account) => these,
        _ => return last.place(),
    };
    let last = last.place();
    let before_account = |account: &Account| QuarantinePlace {
        since: last.since,
        id: format!("{account}/"),
    };
    let next = these
        .iter()
        .map(before_account)
        .filter(|place| *place > last);
    next.min().unwrap_or(QuarantinePlace {
        since: Timestamp::from_ms(last.since.ms() + 1),
        id: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_after_a_job_of_another_account_skips_no_job_and_does_not_name_it() {
        let place = |since, id: &str| QuarantinePlace {
            since: Timestamp::from_ms(since),
            id: id.to_owned(),
        };
        let last = Quarantined {
            job: JobId::from_key("beta/jo@example.com").unwrap(),
            since: Timestamp::from_ms(7),
            lapses: None,
        };
        for (accounts, expected) in [
            ("beta", place(7, "beta/jo@example.com")),
            ("acme,beta", place(7, "beta/jo@example.com")),
            ("acme", place(8, "")),
            ("gamma", place(7, "gamma/")),
            ("zeta,acme,gamma", place(7, "gamma/")),
            ("beta.", place(8, "")),
            ("beta0", place(7, "beta0/")),
        ] {
            let accounts = Accounts::parse_list(accounts).unwrap();
            assert_eq!(next_place(&accounts, &last), expected, "{accounts}");
        }
        assert_eq!(next_place(&Accounts::All, &last), last.place());
    }
}
