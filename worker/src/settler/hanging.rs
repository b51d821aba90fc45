//! Limits how many of a worker's attempts may hang at once: each attempt that hangs needs a place.
//! Attempts at unproven destinations have a place from the start. Any other attempt takes a place
//! when its host has been silent for long. If too few places are free, the attempts that have
//! waited longest are given up. Makes no calls to the store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use domain::destination::Destination;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::held::{HeldJob, HeldLeases};

/// How many checks for hanging attempts are made within `patience`.
const CHECKS_PER_PATIENCE: u32 = 8;

/// If a check comes later than planned by more than one period plus this time, the process was
/// suspended.
const SUSPENDED_MIN: Duration = Duration::from_millis(500);

/// How many attempts may hang, and when an attempt counts as hanging.
#[derive(Clone, Debug)]
pub struct HangSettings {
    /// The permits of all attempts.
    pub permits: Arc<Semaphore>,
    /// The places for attempts that may hang.
    pub places: Arc<Semaphore>,
    /// An attempt hangs when its host has been silent for this long.
    pub patience: Duration,
}

/// The state that decides which attempts hang, and which of them are given up.
pub(super) struct Hanging {
    settings: HangSettings,
    /// By shard, how many unproven destinations wait for a place.
    places_wanted: HashMap<u16, u64>,
    /// By shard, the destinations that are silent according to the store's last answer.
    silent: HashMap<u16, HashSet<Destination>>,
    /// When attempts were last checked.
    checked_at: Instant,
    /// Since when the process has run without a suspension. While it is suspended it reads no
    /// answers, so that time does not count as silence of a host.
    running_since: Instant,
}

impl Hanging {
    pub(super) fn new(settings: HangSettings) -> Self {
        let now = Instant::now();
        Self {
            settings,
            places_wanted: HashMap::new(),
            silent: HashMap::new(),
            checked_at: now,
            running_since: now,
        }
    }

    /// Returns how often to call [`assign_or_give_up`](Self::assign_or_give_up).
    pub(super) fn check_period(&self) -> Duration {
        (self.settings.patience / CHECKS_PER_PATIENCE).max(Duration::from_millis(10))
    }

    /// Records that this many unproven destinations of a shard wait for a place.
    pub(super) fn note_places_wanted(&mut self, shard: u16, destinations: u64) {
        self.places_wanted.insert(shard, destinations);
    }

    /// Returns by shard the destinations where an attempt has waited long for an answer, and since
    /// when the first attempt there has waited.
    pub(super) fn waiting_long(
        &mut self,
        held: &mut HeldLeases,
    ) -> BTreeMap<u16, BTreeMap<Destination, Instant>> {
        let mut waiting: BTreeMap<u16, BTreeMap<Destination, Instant>> = BTreeMap::new();
        self.note_check();
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

    /// Records which destinations of a shard are silent according to the store.
    pub(super) fn note_silent(&mut self, shard: u16, destinations: HashSet<Destination>) {
        self.silent.insert(shard, destinations);
    }

    /// Assigns a place to each hanging attempt, and gives up as many attempts as places are
    /// missing:
    ///
    /// - if no permit is free, one for each hanging attempt that got no place;
    /// - if no place is free, one for each unproven destination that waits for a place.
    ///
    /// An attempt is never given up if its content is being sent, or if it does not wait for a
    /// host.
    pub(super) fn assign_or_give_up(&mut self, held: &mut HeldLeases) {
        self.note_check();
        let wanted: u64 = self
            .places_wanted
            .drain()
            .map(|(_, destinations)| destinations)
            .sum();
        let mut missing: u64 = 0;
        let mut already_given_up: u64 = 0;
        let mut hanging = Vec::new();
        for job in held.open_jobs() {
            if job.contact.given_up().is_some() {
                already_given_up += 1;
            } else if let Some(since) = self.hangs_since(job) {
                if job.place.is_none() {
                    job.place = self.settings.places.clone().try_acquire_owned().ok();
                    missing += u64::from(job.place.is_none());
                }
                let job: &HeldJob = job;
                hanging.push((since, job));
            }
        }
        if self.settings.permits.available_permits() > 0 {
            // Other jobs can still be claimed, so the hanging attempts without a place block
            // nothing.
            missing = 0;
        }
        if self.settings.places.available_permits() == 0 {
            missing += wanted;
        }
        // Attempts at silent destinations come first. A destination that answers other attempts may
        // only be slow.
        hanging.sort_unstable_by_key(|(since, job)| (Reverse(self.is_silent(job)), *since));
        let mut still_missing = missing.saturating_sub(already_given_up);
        for (since, job) in hanging {
            if still_missing == 0 {
                break;
            }
            if job.contact.give_up(since) {
                tracing::debug!(
                    destination = %job.lease.destination,
                    "the host does not answer and other jobs need the place; \
                     the attempt is given up"
                );
                job.cancel.cancel();
                still_missing -= 1;
            }
        }
    }

    /// Records that attempts are checked now. If the process was suspended since the last check,
    /// silence counts from now.
    fn note_check(&mut self) {
        if self.checked_at.elapsed() > 2 * self.check_period() + SUSPENDED_MIN {
            self.running_since = Instant::now();
        }
        self.checked_at = Instant::now();
    }

    /// Returns since when the job's host has been silent, not counting the time before the process
    /// was last suspended; `None` if the attempt does not wait for a host.
    fn silent_since(&self, job: &HeldJob) -> Option<Instant> {
        job.contact
            .silent_since()
            .map(|since| since.max(self.running_since))
    }

    fn is_long(&self, silent_since: Instant) -> bool {
        silent_since.elapsed() >= self.settings.patience
    }

    /// If an attempt hangs, returns since when it has waited. At a silent destination an attempt
    /// also hangs if it waits for a free connection to one of the destination's hosts. Attempts
    /// that go elsewhere, for example to a relay, do not hang.
    fn hangs_since(&self, job: &HeldJob) -> Option<Instant> {
        match self.silent_since(job) {
            Some(since) => self.is_long(since).then_some(since),
            None if self.is_silent(job) && job.contact.is_direct() => {
                Instant::now().checked_sub(self.settings.patience)
            }
            None => None,
        }
    }

    /// Whether the job's destination is silent according to the store's last answer.
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

    /// Returns a state in which no permit and no place is free, the destination `there` is silent,
    /// and 9 unproven destinations wait for a place.
    fn hanging() -> Hanging {
        let mut hanging = Hanging::new(HangSettings {
            permits: Arc::new(Semaphore::new(0)),
            places: Arc::new(Semaphore::new(0)),
            patience: PATIENCE,
        });
        hanging.note_silent(0, HashSet::from([Destination::named("there")]));
        hanging.note_places_wanted(0, 9);
        hanging
    }

    /// Returns a lease on jobs at one destination, one job for each of these contacts. Also returns
    /// the token that cancels the attempt of each job.
    fn held(contacts: &[&Contact]) -> (HeldLeases, Vec<CancellationToken>) {
        let key = LeaseKey {
            shard: 0,
            token: LeaseToken {
                serial: 1,
                nonce: 1,
            },
        };
        let cancels: Vec<_> = contacts.iter().map(|_| CancellationToken::new()).collect();
        let jobs = (1..)
            .zip(contacts)
            .zip(&cancels)
            .map(|((number, contact), cancel)| HeldJob {
                lease: Lease {
                    job: format!("notice/jo{number}@example.com").into(),
                    destination: Destination::named("there"),
                    shard: key.shard,
                    token: key.token,
                    number,
                    due: Timestamp::from_ms(0),
                },
                cancel: cancel.clone(),
                contact: (*contact).clone(),
                place: None,
            });
        let mut held = HeldLeases::default();
        held.insert(HeldLease::new(key, jobs.collect(), LeaseEnd::default()));
        (held, cancels)
    }

    #[tokio::test]
    async fn silence_counts_from_the_last_answer_even_if_it_is_reported_late() {
        // Created before the silence begins, because silence before that is not counted.
        let mut hanging = hanging();
        let contact = Contact::with_host(true).await;
        let since = contact
            .silent_since()
            .expect("the attempt waits for its host");
        while since.elapsed() < PATIENCE {}
        let (mut held, cancels) = held(&[&contact]);
        let waiting = hanging.waiting_long(&mut held);
        assert_eq!(waiting[&0][&Destination::named("there")], since);
        hanging.assign_or_give_up(&mut held);
        assert!(cancels[0].is_cancelled());
        while since.elapsed() < 2 * PATIENCE {}
        assert_eq!(contact.given_up(), Some(since));
    }

    #[tokio::test]
    async fn at_a_silent_destination_only_attempts_at_its_own_hosts_are_given_up() {
        let (direct, by_relay) = (Contact::with_host(false).await, Contact::default());
        let (mut held, cancels) = held(&[&direct, &by_relay]);
        hanging().assign_or_give_up(&mut held);
        assert!(
            cancels[0].is_cancelled(),
            "it waits for a connection to a silent host"
        );
        assert!(!cancels[1].is_cancelled(), "its relay may work");
    }
}
