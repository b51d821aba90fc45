//! Claiming: taking due jobs for a bounded time.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::{FromRedisValue, Value, from_redis_value};
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::job::{CorruptRecord, Job, JobId};

use crate::batch::BATCH_MAX;
use crate::error::StoreError;
use crate::handle::Store;
use crate::lease_token::LeaseToken;
use crate::raw::Text;
use crate::scripts::{CLAIM, ms};

/// How much one claim may take.
#[derive(Clone, Copy, Debug)]
pub struct ClaimBounds {
    /// How many jobs in all.
    pub batch: usize,
    /// How many of one destination, so that no destination holds up the others.
    pub share: usize,
    /// The length of the lease.
    pub lease: Duration,
    /// How many jobs of unproven destinations: those that have not answered lately, or do not
    /// answer now.
    pub unproven: usize,
}

/// The result of a claim.
#[derive(Debug)]
pub struct Claimed {
    /// Redis's instant of the claim.
    pub now: Timestamp,
    /// When the shard is next worth visiting; none if nothing waits in it.
    pub next_visit: Option<Timestamp>,
    /// How many unproven destinations have due jobs that [`ClaimBounds::unproven`] had no room for.
    pub unproven_waiting: u64,
    /// How many jobs have lapsed in this call: their leases had run out unsettled.
    pub lapsed: u64,
    /// The jobs, leased.
    pub jobs: Vec<LeasedJob>,
    /// Records that could not be read. Their jobs are leased and come back when the lease lapses.
    /// They are worth an alert.
    pub corrupt: Vec<(Destination, CorruptRecord)>,
}

/// A job and the lease on it.
#[derive(Debug)]
pub struct LeasedJob {
    /// The job as it was when it was claimed.
    pub job: Job,
    /// The lease.
    pub lease: Lease,
    /// When it was claimed, by Redis's clock.
    pub claimed_at: Timestamp,
    /// When a message was last delivered at its destination, if known.
    pub last_delivery_there: Option<Timestamp>,
    /// Whether its destination is unproven. Attempts there may hang.
    pub is_unproven: bool,
}

/// The right to attempt and settle one job. All jobs of one claim share one lease: its token and
/// its deadline.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The job's full id, as Redis has it.
    pub job: Arc<str>,
    /// The destination of its attempts.
    pub destination: Destination,
    /// The shard that it is in.
    pub shard: u16,
    /// The fencing token, which no other claim ever has.
    pub token: LeaseToken,
    /// Which of the claim's jobs it is, from 1.
    pub number: usize,
    /// When the job was due, or a little earlier. If many jobs of one destination are due, Redis
    /// returns the due times of the first ones only. The later jobs get the last due time that was
    /// returned.
    pub due: Timestamp,
}

impl Lease {
    /// Returns the full address of the job's recipient.
    pub fn recipient(&self) -> &str {
        self.job
            .split_once('/')
            .map_or("", |(_, recipient)| recipient)
    }

    /// Returns the key of the lease that the job belongs to.
    pub fn key(&self) -> LeaseKey {
        LeaseKey {
            shard: self.shard,
            token: self.token,
        }
    }
}

/// Identifies a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseKey {
    /// The shard that its jobs are in.
    pub shard: u16,
    /// The fencing token.
    pub token: LeaseToken,
}

impl Store {
    /// Leases due jobs of one shard. The destinations that have waited longest come first, and each
    /// gives no more than its pace allows. Jobs whose lease ran out are put back first. Atomic;
    /// never returns a job before it is due by Redis's clock.
    pub async fn claim(&self, shard: u16, bounds: ClaimBounds) -> Result<Claimed, StoreError> {
        let mut call = self.call(&CLAIM, shard);
        let (seen, known) = self.history.serials(shard);
        call.arg("batch", bounds.batch.min(BATCH_MAX))
            .arg("share", bounds.share.max(1))
            .arg("lease_ms", ms(bounds.lease))
            .arg("nonce", format!("{:016x}", LeaseToken::new_nonce()?))
            .arg("seen", seen)
            .arg("unproven_left", bounds.unproven.min(BATCH_MAX));
        let reply: Vec<Value> = self.connections.script(&call).await?;
        let (claimed, last_serial, changes) = read_claim(shard, reply)
            .ok_or_else(|| StoreError::Refused("unexpected reply of claim".to_owned()))?;
        let serial = claimed.jobs.first().map(|leased| leased.lease.token.serial);
        self.history.note_claim(shard, known, last_serial, serial);
        self.changes.note_lapses(shard, claimed.lapsed);
        self.changes.note_changes(&changes);
        Ok(claimed)
    }
}

fn read<T: FromRedisValue>(value: Value) -> Option<T> {
    from_redis_value(value).ok()
}

/// Reads a claim's reply: what was claimed, the serial of the lease before, and the changes to log.
fn read_claim(shard: u16, reply: Vec<Value>) -> Option<(Claimed, u64, Vec<Text>)> {
    let mut reply = reply.into_iter();
    let now = Timestamp::from_ms(read(reply.next()?)?);
    let Text(token) = Text::from(&reply.next()?);
    // There is none if nothing was claimed.
    let token: Option<LeaseToken> = if token.is_empty() {
        None
    } else {
        Some(token.parse().ok()?)
    };
    let next_visit: i64 = read(reply.next()?)?;
    let last_serial: u64 = read(reply.next()?)?;
    let next_visit = (next_visit >= 0).then(|| Timestamp::from_ms(next_visit));
    let unproven_waiting = read(reply.next()?)?;
    let lapsed = read(reply.next()?)?;
    let changes = read(reply.next()?)?;
    let mut claimed = Claimed {
        now,
        next_visit,
        unproven_waiting,
        lapsed,
        jobs: Vec::new(),
        corrupt: Vec::new(),
    };
    let mut number = 0;
    for visit in reply {
        let (Value::Array(fields), Some(token)) = (visit, token) else {
            return None;
        };
        let mut fields = fields.iter().map(|field| Text::from(field).0);
        let destination = Destination::named(fields.next()?);
        let last_delivery_there = fields.next()?.parse().ok().map(Timestamp::from_ms);
        let is_unproven = !fields.next()?.is_empty();
        let mut due = now;
        while let (Some(id), Some(due_text), Some(record)) =
            (fields.next(), fields.next(), fields.next())
        {
            if let Ok(ms) = due_text.parse::<f64>() {
                due = Timestamp::from_ms(ms as i64);
            }
            number += 1;
            // An unreadable record must not keep the other jobs of its batch from being processed.
            let job = if id.contains(char::REPLACEMENT_CHARACTER) {
                Err(CorruptRecord::NotText)
            } else {
                JobId::from_key(&id)
                    .map_err(CorruptRecord::Id)
                    .and_then(|id| Job::from_record(id, &record))
            };
            match job {
                Ok(job) => {
                    let destination = destination.clone();
                    let lease = Lease {
                        job: id.into(),
                        destination,
                        shard,
                        token,
                        number,
                        due,
                    };
                    claimed.jobs.push(LeasedJob {
                        job,
                        lease,
                        claimed_at: now,
                        last_delivery_there,
                        is_unproven,
                    });
                }
                Err(why) => claimed.corrupt.push((destination.clone(), why)),
            }
        }
    }
    Some((claimed, last_serial, changes))
}
