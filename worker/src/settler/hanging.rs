//! Attempts that hang may have a bounded share of a worker's attempts at once. Those at unproven
//! destinations have their place in it from the start; any other takes one when its host has been
//! silent for long. If an unproven destination waits for a place, or more attempts hang than there
//! are places and no permit is free, those that have waited longest are given up.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use shared::placement::Destination;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::held::{HeldJob, HeldLeases};

/// How often it is looked at which attempts hang, while patience lasts.
const LOOKS: u32 = 8;

/// How late a look has to be at least to say that this process did not run.
const GAP_MIN: Duration = Duration::from_millis(500);

/// How attempts that hang are dealt with.
#[derive(Clone, Debug)]
pub struct Patience {
    /// What bounds all attempts.
    pub permits: Arc<Semaphore>,
    /// The places of attempts that may hang.
    pub places: Arc<Semaphore>,
    /// How long a host may be silent until its attempt hangs.
    pub patience: Duration,
}

/// What is known of attempts that hang.
pub(super) struct Hanging {
    patience: Patience,
    /// By shard, how many unproven destinations wait for a place.
    wanted: HashMap<u16, u64>,
    /// Destinations that do not answer, by what the store said last.
    silent: HashMap<u16, HashSet<Destination>>,
    /// When it was last looked which attempts hang, and since when there was no long gap between
    /// two looks: if this process does not run, hosts are not heard, and that is no silence of
    /// theirs.
    looked_at: Instant,
    awake_since: Instant,
}

impl Hanging {
    pub(super) fn new(patience: Patience) -> Self {
        let now = Instant::now();
        Self { patience, wanted: HashMap::new(), silent: HashMap::new(), looked_at: now, awake_since: now }
    }

    /// How often to [`relieve`](Self::relieve).
    pub(super) fn period(&self) -> Duration {
        (self.patience.patience / LOOKS).max(Duration::from_millis(10))
    }

    /// So many unproven destinations of a shard wait for a place.
    pub(super) fn want(&mut self, shard: u16, destinations: u64) {
        self.wanted.insert(shard, destinations);
    }

    /// What attempts wait for an answer that is long in coming: for each shard its destinations,
    /// with the longest time.
    pub(super) fn waiting(&mut self, held: &mut HeldLeases) -> BTreeMap<u16, BTreeMap<Destination, Duration>> {
        let mut waiting: BTreeMap<u16, BTreeMap<Destination, Duration>> = BTreeMap::new();
        self.look();
        for job in held.open_jobs() {
            if let Some(silent_for) = self.silent_for(job).filter(|time| *time >= self.patience.patience) {
                let of_shard = waiting.entry(job.lease.shard).or_default();
                let longest = of_shard.entry(job.lease.destination.clone()).or_default();
                *longest = silent_for.max(*longest);
            }
        }
        self.silent.retain(|shard, _| waiting.contains_key(shard));
        waiting
    }

    /// These destinations of a shard are silent, by what the store says.
    pub(super) fn note_silent(&mut self, shard: u16, destinations: HashSet<Destination>) {
        self.silent.insert(shard, destinations);
    }

    /// Gives each attempt that hangs a place, and gives up as many as there are too few places.
    /// Attempts whose content is on its way, and those that no host keeps waiting, go on.
    pub(super) fn relieve(&mut self, held: &mut HeldLeases) {
        self.look();
        let wanted: u64 = self.wanted.drain().map(|(_, destinations)| destinations).sum();
        let (mut short, mut leaving, mut long) = (0, 0, Vec::new());
        for job in held.open_jobs() {
            if job.contact.given_up().is_some() {
                leaving += 1;
            } else if let Some(waited) = self.hangs_for(job) {
                if job.place.is_none() {
                    job.place = self.patience.places.clone().try_acquire_owned().ok();
                    short += u64::from(job.place.is_none());
                }
                let job: &HeldJob = job;
                long.push((waited, job));
            }
        }
        if self.patience.permits.available_permits() > 0 {
            // They are in no other's way.
            short = 0;
        }
        if self.patience.places.available_permits() == 0 {
            short += wanted;
        }
        // If other attempts at the destination get answers, it may only be slow.
        long.sort_unstable_by_key(|(waited, job)| Reverse((self.is_silent(job), *waited)));
        let mut left = short.saturating_sub(leaving);
        for (waited, job) in long {
            if left == 0 {
                break;
            }
            if job.contact.give_up(waited) {
                tracing::debug!(destination = %job.lease.destination, "no answer, and others wait; the attempt is given up");
                job.cut.cancel();
                left -= 1;
            }
        }
    }

    fn look(&mut self) {
        if self.looked_at.elapsed() > 2 * self.period() + GAP_MIN {
            self.awake_since = Instant::now();
        }
        self.looked_at = Instant::now();
    }

    /// For how long its host has been silent while this process ran.
    fn silent_for(&self, job: &HeldJob) -> Option<Duration> {
        job.contact.silent_for().map(|silent_for| silent_for.min(self.awake_since.elapsed()))
    }

    /// For how long an attempt has hung, if it does. At a silent destination those hang too that
    /// wait for a connection.
    fn hangs_for(&self, job: &HeldJob) -> Option<Duration> {
        match self.silent_for(job) {
            Some(silent_for) if silent_for >= self.patience.patience => Some(silent_for),
            Some(_) => None,
            None => self.is_silent(job).then_some(self.patience.patience),
        }
    }

    /// Whether its destination is silent, by what the store said last.
    fn is_silent(&self, job: &HeldJob) -> bool {
        self.silent.get(&job.lease.shard).is_some_and(|silent| silent.contains(&job.lease.destination))
    }
}
