//! Repair: finds and corrects faults that no crash and no race can cause, but a bug of ours or a
//! manual change in Redis could. A job in no set would wait for ever. So would a destination that
//! is in no agenda, or whose pace counts attempts that do not exist.
//!
//! Every step is one bounded script that looks and acts at once, so it can run next to claims,
//! settles and schedules.

use std::collections::{BTreeMap, BTreeSet};

use domain::destination::Destination;
use telemetry::metrics::redis::Repair;

use crate::batch::{BATCH_BYTES_MAX, BATCH_MAX};
use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;
use crate::scripts::{KnownScript, RECOUNT, REPAIR, SWEEP, TRIM_MARKS, TRIM_TROUBLE};

/// How many jobs the first page of a shard has. Later pages are sized to have about
/// [`BATCH_BYTES_MAX`] bytes, and at most [`PAGE_MAX`] jobs.
const FIRST_PAGE: usize = 16;

/// How many jobs a page has at most, about.
const PAGE_MAX: usize = 200;

/// How many leased jobs of one shard are counted at most, in one step.
const COUNTED_MAX: usize = 5_000;

/// What a pass over one shard found and corrected. It is empty unless there was a fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// How many jobs were in no set: neither waiting nor leased nor in quarantine. They are due
    /// now.
    pub recovered: BTreeMap<Destination, u64>,
    /// Destinations with due jobs that were not in the agenda.
    pub woken: BTreeSet<Destination>,
    /// Destinations whose pace had the wrong number of attempts under way.
    pub recounted: Vec<Recount>,
    /// How many remains of leases that were over have been removed.
    pub swept: u64,
}

/// A corrected count of attempts under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recount {
    /// The destination.
    pub destination: Destination,
    /// The number in its pace before.
    pub recorded: i64,
    /// The number of attempts that are really under way.
    pub counted: i64,
}

impl Store {
    /// Passes once over the jobs of a shard. A job that is scheduled, claimed or settled meanwhile
    /// may be seen or not. A job that was lost before is always found.
    ///
    /// Attempts under way are not counted while the shard has more than 5,000 leased jobs at once.
    pub async fn repair(&self, shard: u16) -> Result<Repaired, StoreError> {
        let metrics = self.metrics().redis();
        let mut repaired = Repaired::default();
        let mut suspects = BTreeSet::new();
        let (mut cursor, mut page) = ("0".to_owned(), FIRST_PAGE);
        loop {
            let mut call = self.call(&REPAIR, shard);
            call.arg("page_from", &cursor).arg("page_size", page);
            let (_, next, bytes, recovered, woken, under_way): Page =
                self.connections.script(&call).await?;
            for (Text(destination), jobs) in recovered {
                metrics.recovered(jobs);
                *repaired
                    .recovered
                    .entry(Destination::named(destination))
                    .or_default() += jobs;
            }
            metrics.repaired(Repair::Destination, woken.len() as u64);
            repaired
                .woken
                .extend(woken.into_iter().map(|Text(name)| Destination::named(name)));
            suspects.extend(under_way.into_iter().map(|Text(name)| name));
            if next == "0" {
                break;
            }
            page = (page * BATCH_BYTES_MAX / bytes.max(1)).clamp(1, PAGE_MAX);
            cursor = next;
        }
        let suspects: Vec<String> = suspects.into_iter().collect();
        for batch in suspects.chunks(BATCH_MAX) {
            let recounted = self.recount(shard, batch).await?;
            metrics.repaired(Repair::Count, recounted.len() as u64);
            repaired.recounted.extend(recounted);
        }
        repaired.swept = self.page_through(&SWEEP, shard).await?;
        metrics.repaired(Repair::Lease, repaired.swept);
        Ok(repaired)
    }

    async fn recount(
        &self,
        shard: u16,
        destinations: &[String],
    ) -> Result<Vec<Recount>, StoreError> {
        let mut call = self.call(&RECOUNT, shard);
        call.arg("most", COUNTED_MAX);
        for destination in destinations {
            call.arg("destination", destination.as_str());
        }
        let (_, _, corrected): (i64, u8, Vec<(Text, i64, i64)>) =
            self.connections.script(&call).await?;
        let read = |(Text(name), said, counted)| Recount {
            destination: Destination::named(name),
            recorded: said,
            counted,
        };
        Ok(corrected.into_iter().map(read).collect())
    }

    /// Removes the marks of jobs whose address was retired while they were leased, once all leases
    /// of that time are over. Returns how many.
    pub async fn trim_marks(&self, shard: u16) -> Result<u64, StoreError> {
        self.page_through(&TRIM_MARKS, shard).await
    }

    /// Removes destinations from the set of those in trouble, if their hold has run out and their
    /// breaker is closed. Returns how many.
    pub async fn trim_trouble(&self, shard: u16) -> Result<u64, StoreError> {
        self.page_through(&TRIM_TROUBLE, shard).await
    }

    /// Runs a script on page after page. Returns the sum of the numbers that it replies.
    async fn page_through(&self, script: &KnownScript, shard: u16) -> Result<u64, StoreError> {
        let (mut sum, mut cursor) = (0, "0".to_owned());
        loop {
            let mut call = self.call(script, shard);
            call.arg("page_from", &cursor).arg("page_size", BATCH_MAX);
            let (_, next, of_page): (i64, String, u64) = self.connections.script(&call).await?;
            sum += of_page;
            if next == "0" {
                return Ok(sum);
            }
            cursor = next;
        }
    }
}

/// The reply to a page: now, where the next page starts, bytes, recovered, woken, under way.
type Page = (i64, String, usize, Vec<(Text, u64)>, Vec<Text>, Vec<Text>);
