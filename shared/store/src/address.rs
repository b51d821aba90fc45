//! What is known of addresses: their standing, and their job if they have one.

use std::collections::HashMap;

use deadpool_redis::redis::{Pipeline, pipe};
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::job::{Job, JobId};
use domain::standing::StandingRecord;

use crate::batch::BATCH_MAX;
use crate::destination_controls::read_pace;
use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::{self, Text};
use crate::scripts::LOOK_UP;
use crate::wait_reason::WaitsFor;

/// How many leases are searched for the one that holds a job.
const LEASES_READ: usize = 1_000;

/// How many of them are read at a time.
const LEASES_PAGE: usize = 50;

/// How often a job is looked up at most that is neither found waiting nor in a lease.
const LOOKS_MAX: usize = 3;

/// What is known of one address.
#[derive(Debug)]
pub struct AddressReport {
    /// Its standing; none means that it is active and has no record.
    pub standing: Option<StandingRecord>,
    /// Its job.
    pub job: Option<JobReport>,
}

/// What is known of one job.
#[derive(Debug)]
pub struct JobReport {
    /// The job.
    pub job: Job,
    /// When its next attempt is due; none while an attempt is under way.
    pub due: Option<Timestamp>,
    /// Until when it is leased; none while it waits.
    pub leased_until: Option<Timestamp>,
    /// Since when it is in quarantine; none if it is not.
    pub quarantined_since: Option<Timestamp>,
    /// What it waits for; none if the destination's pace cannot be read.
    pub waits_for: Option<WaitsFor>,
}

impl Store {
    /// Returns the standings of addresses, in the order given; none means active.
    pub async fn standings(
        &self,
        ids: &[JobId],
    ) -> Result<Vec<Option<StandingRecord>>, StoreError> {
        let mut by_shard: Vec<Vec<usize>> = vec![Vec::new(); usize::from(self.shards())];
        let domains: Vec<&str> = ids.iter().map(|id| id.recipient.domain()).collect();
        for (n, destination) in self.destinations(&domains).await?.iter().enumerate() {
            by_shard[usize::from(destination.shard(self.shards()))].push(n);
        }
        let asked: Vec<(u16, &Vec<usize>)> = (0..self.shards())
            .zip(&by_shard)
            .filter(|(_, places)| !places.is_empty())
            .collect();
        let pipelines: Vec<Pipeline> = asked
            .iter()
            .map(|(shard, places)| self.ask_standings(*shard, places, ids))
            .collect();
        let found: Vec<Vec<Vec<Option<Text>>>> = self.connections.pipelines(&pipelines).await?;
        let mut standings = vec![None; ids.len()];
        for ((_, places), found) in asked.into_iter().zip(found) {
            for (place, json) in places.iter().zip(found.into_iter().flatten()) {
                standings[*place] = json.map(|Text(json)| StandingRecord::from_store(&json));
            }
        }
        Ok(standings)
    }

    /// Returns the ids of jobs that are leased now, from at most `most` leases of each shard.
    pub async fn leased(&self, most: usize) -> Result<Vec<String>, StoreError> {
        let mut ids = Vec::new();
        for shard in 0..self.shards() {
            for page in self.leases(shard, most).await?.chunks(LEASES_PAGE) {
                ids.extend(
                    self.stored_leases(shard, page)
                        .await?
                        .iter()
                        .flat_map(StoredLease::jobs)
                        .map(str::to_owned),
                );
            }
        }
        Ok(ids)
    }

    fn ask_standings(&self, shard: u16, places: &[usize], ids: &[JobId]) -> Pipeline {
        let mut commands = pipe();
        for places in places.chunks(BATCH_MAX) {
            let fields: Vec<String> = places.iter().map(|n| ids[*n].key()).collect();
            commands
                .cmd("HMGET")
                .arg(self.keys.shard(shard).standing())
                .arg(fields);
        }
        commands
    }

    /// Returns at most `most` leases of one shard, as token and deadline. The earliest deadlines
    /// come first.
    async fn leases(
        &self,
        shard: u16,
        most: usize,
    ) -> Result<Vec<(String, Timestamp)>, StoreError> {
        let key = self.keys.shard(shard).leases();
        let last = isize::try_from(most).unwrap_or(isize::MAX) - 1;
        let (leases,): (Vec<(String, f64)>,) = self
            .connections
            .pipeline(pipe().zrange_withscores(key, 0, last))
            .await?;
        Ok(leases
            .into_iter()
            .map(|(token, at)| (token, Timestamp::from_ms(at as i64)))
            .collect())
    }

    /// Returns until when a job is leased, if it is. Looks at a bounded number of leases.
    async fn leased_until(&self, shard: u16, field: &str) -> Result<Option<Timestamp>, StoreError> {
        for page in self.leases(shard, LEASES_READ).await?.chunks(LEASES_PAGE) {
            let held = self.stored_leases(shard, page).await?;
            if let Some(at) = held
                .iter()
                .position(|lease| lease.jobs().any(|id| id == field))
            {
                return Ok(Some(page[at].1));
            }
        }
        Ok(None)
    }

    /// Reads the stored fields of these leases. They are empty if a lease is over by now.
    async fn stored_leases(
        &self,
        shard: u16,
        leases: &[(String, Timestamp)],
    ) -> Result<Vec<StoredLease>, StoreError> {
        let fields: Vec<String> = leases
            .iter()
            .flat_map(|(token, _)| [token.clone(), format!("{token} ids")])
            .collect();
        let mut commands = pipe();
        commands
            .cmd("HMGET")
            .arg(self.keys.shard(shard).leased())
            .arg(fields);
        let (held,): (Vec<Option<Text>>,) = self.connections.pipeline(&commands).await?;
        let text = |field: &Option<Text>| field.clone().unwrap_or_default().0;
        Ok(held
            .chunks_exact(2)
            .map(|lease| StoredLease {
                marks: text(&lease[0]),
                ids: text(&lease[1]),
            })
            .collect())
    }

    /// Returns all that is known of one address.
    pub async fn address(&self, id: &JobId) -> Result<AddressReport, StoreError> {
        let destination = self.destinations(&[id.recipient.domain()]).await?.remove(0);
        let LookedUp {
            standing,
            record,
            due,
            leased_until,
            quarantined,
            pace,
        } = self.look_up(id, &destination).await?;
        let job = match record {
            None => None,
            Some(Text(record)) => {
                let job = Job::from_record(id.clone(), &record)
                    .map_err(|why| StoreError::Refused(why.to_string()))?;
                let quarantined_since = quarantined;
                let waits_for = match due {
                    _ if quarantined_since.is_some() => Some(WaitsFor::Operator),
                    None => Some(WaitsFor::Attempt(leased_until)),
                    Some(due) => {
                        let is_accepted = job
                            .messages
                            .iter()
                            .any(|message| message.accepted.is_some());
                        let route = job.head.dead_route.as_deref();
                        let pace = read_pace(&destination, &pace).ok();
                        match pace.map(|pace| {
                            self.waits_for(&destination, &pace, due, is_accepted, route)
                        }) {
                            Some(WaitsFor::Turn) if self.workers().await?.is_empty() => {
                                Some(WaitsFor::Worker)
                            }
                            waits_for => waits_for,
                        }
                    }
                };
                Some(JobReport {
                    job,
                    due,
                    leased_until,
                    quarantined_since,
                    waits_for,
                })
            }
        };
        Ok(AddressReport {
            standing: standing.map(|Text(json)| StandingRecord::from_store(&json)),
            job,
        })
    }
}

impl Store {
    /// Reads what Redis has of an address. If its job is in a lease that has run out, the job is
    /// due since then: the next claim puts it back.
    async fn look_up(&self, id: &JobId, destination: &Destination) -> Result<LookedUp, StoreError> {
        type Found = (
            i64,
            Option<Text>,
            Option<Text>,
            Option<f64>,
            Option<f64>,
            HashMap<Text, Text>,
        );
        let (shard, field) = (destination.shard(self.shards()), id.key());
        let instant = |ms: f64| Timestamp::from_ms(ms as i64);
        let mut looks = 0;
        loop {
            let mut call = self.call(&LOOK_UP, shard);
            call.arg("id", &field)
                .arg("destination", destination.as_str());
            let (now, standing, record, due, quarantined, pace): Found =
                self.connections.script(&call).await?;
            let mut looked_up = LookedUp {
                standing,
                record,
                due: due.map(instant),
                leased_until: None,
                quarantined: quarantined.map(instant),
                pace: raw::texts(pace),
            };
            let is_waiting = due.is_some() || quarantined.is_some();
            if looked_up.record.is_none() || is_waiting {
                return Ok(looked_up);
            }
            let leased_until = self.leased_until(shard, &field).await?;
            looks += 1;
            match leased_until {
                Some(until) if until <= Timestamp::from_ms(now) => looked_up.due = leased_until,
                // The attempt may have ended between the two answers.
                None if looks < LOOKS_MAX => continue,
                _ => looked_up.leased_until = leased_until,
            }
            return Ok(looked_up);
        }
    }
}

/// What Redis has of one address.
struct LookedUp {
    standing: Option<Text>,
    record: Option<Text>,
    due: Option<Timestamp>,
    leased_until: Option<Timestamp>,
    quarantined: Option<Timestamp>,
    /// The fields of the destination's pace.
    pace: HashMap<String, String>,
}

/// The stored fields of a lease, as `lease.lua` writes them.
struct StoredLease {
    marks: String,
    ids: String,
}

impl StoredLease {
    /// Returns the ids of the jobs that are still in it.
    fn jobs(&self) -> impl Iterator<Item = &str> {
        let ids = self.ids.split('\n').skip(1);
        self.marks
            .bytes()
            .zip(ids)
            .filter(|(mark, _)| *mark == b'1')
            .map(|(_, id)| id)
    }
}
