//! Attempts that hang may have a bounded share of a worker's attempts at once. Those at unproven
//! destinations have their place in it from the start; any other takes one when its host has been
//! silent for long. If an unproven destination waits for a place, or more attempts hang than there
//! are places and no permit is free, those that have waited longest are given up.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use domain::destination::Destination;
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
        Self {
            patience,
            wanted: HashMap::new(),
            silent: HashMap::new(),
            looked_at: now,
            awake_since: now,
        }
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
    /// and since when the first of them waits.
    pub(super) fn waiting(
        &mut self,
        held: &mut HeldLeases,
    ) -> BTreeMap<u16, BTreeMap<Destination, Instant>> {
        let mut waiting: BTreeMap<u16, BTreeMap<Destination, Instant>> = BTreeMap::new();
        self.look();
        for job in held.open_jobs() {
            if let Some(since) = self.silent_since(job).filter(|since| self.is_long(*since)) {
                let of_shard = waiting.entry(job.lease.shard).or_default();
                let first = of_shard
                    .entry(job.lease.destination.clone())
                    .or_insert(since);
                *first = since.min(*first);
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
        let wanted: u64 = self
            .wanted
            .drain()
            .map(|(_, destinations)| destinations)
            .sum();
        let (mut short, mut leaving, mut long) = (0, 0, Vec::new());
        for job in held.open_jobs() {
            if job.contact.given_up().is_some() {
                leaving += 1;
            } else if let Some(since) = self.hangs_since(job) {
                if job.place.is_none() {
                    job.place = self.patience.places.clone().try_acquire_owned().ok();
                    short += u64::from(job.place.is_none());
                }
                let job: &HeldJob = job;
                long.push((since, job));
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
        long.sort_unstable_by_key(|(since, job)| (Reverse(self.is_silent(job)), *since));
        let mut left = short.saturating_sub(leaving);
        for (since, job) in long {
            if left == 0 {
                break;
            }
            if job.contact.give_up(since) {
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

    /// Since when its host has been silent while this process ran.
    fn silent_since(&self, job: &HeldJob) -> Option<Instant> {
        job.contact
            .silent_since()
            .map(|since| since.max(self.awake_since))
    }

    fn is_long(&self, silent_since: Instant) -> bool {
        silent_since.elapsed() >= self.patience.patience
    }

    /// Since when an attempt has hung, if it does. At a silent destination those hang too that wait
    /// for a connection to its hosts; those that go elsewhere, to a relay say, do not.
    fn hangs_since(&self, job: &HeldJob) -> Option<Instant> {
        match self.silent_since(job) {
            Some(since) => self.is_long(since).then_some(since),
            None if self.is_silent(job) && job.contact.is_direct() => {
                Instant::now().checked_sub(self.patience.patience)
            }
            None => None,
        }
    }

    /// Whether its destination is silent, by what the store said last.
    fn is_silent(&self, job: &HeldJob) -> bool {
        self.silent
            .get(&job.lease.shard)
            .is_some_and(|silent| silent.contains(&job.lease.destination))
    }
}

#[cfg(test)]
mod tests {
    use domain::clock::Timestamp;
    use store::claim::{Lease, LeaseKey};
    use store::lease_token::LeaseToken;
    use tokio_util::sync::CancellationToken;

    use super::super::HeldLease;
    use super::*;
    use senders::contact::Contact;
    use senders::lease_end::LeaseEnd;

    const PATIENCE: Duration = Duration::from_millis(1);

    /// What is known of attempts, if one has hung for long and others need its place.
    fn hanging() -> Hanging {
        let (permits, places) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let mut hanging = Hanging::new(Patience {
            permits,
            places,
            patience: PATIENCE,
        });
        hanging.note_silent(0, HashSet::from([Destination::named("there")]));
        hanging.want(0, 9);
        hanging
    }

    /// A lease on jobs at one destination, whose attempts have these contacts with it; and what
    /// tells of each whether it was cut off.
    fn held(contacts: &[&Contact]) -> (HeldLeases, Vec<CancellationToken>) {
        let key = LeaseKey {
            shard: 0,
            token: LeaseToken {
                serial: 1,
                nonce: 1,
            },
        };
        let cuts: Vec<_> = contacts.iter().map(|_| CancellationToken::new()).collect();
        let jobs = (1..)
            .zip(contacts)
            .zip(&cuts)
            .map(|((number, contact), cut)| HeldJob {
                lease: Lease {
                    job: format!("notice/jo{number}@example.com").into(),
                    destination: Destination::named("there"),
                    shard: key.shard,
                    token: key.token,
                    number,
                    due: Timestamp::from_ms(0),
                },
                cut: cut.clone(),
                contact: (*contact).clone(),
                place: None,
            });
        let mut held = HeldLeases::default();
        held.take(HeldLease::new(key, jobs.collect(), LeaseEnd::default()));
        (held, cuts)
    }

    #[tokio::test]
    async fn an_attempt_is_given_up_since_when_its_host_is_silent_however_late_that_is_told() {
        // From before the silence: what was before it was looked at is not counted.
        let mut hanging = hanging();
        let contact = Contact::with_host(true).await;
        let since = contact.silent_since().expect("it waits for its host");
        while since.elapsed() < PATIENCE {}
        let (mut held, cuts) = held(&[&contact]);
        let waiting = hanging.waiting(&mut held);
        assert_eq!(waiting[&0][&Destination::named("there")], since);
        hanging.relieve(&mut held);
        assert!(cuts[0].is_cancelled());
        while since.elapsed() < 2 * PATIENCE {}
        assert_eq!(contact.given_up(), Some(since));
    }

    #[tokio::test]
    async fn at_a_silent_destination_only_attempts_at_its_own_hosts_are_given_up() {
        let (direct, by_relay) = (Contact::with_host(false).await, Contact::default());
        let (mut held, cuts) = held(&[&direct, &by_relay]);
        hanging().relieve(&mut held);
        assert!(
            cuts[0].is_cancelled(),
            "it waits for a connection to a host that is silent"
        );
        assert!(!cuts[1].is_cancelled(), "its relay may be well");
    }
}
