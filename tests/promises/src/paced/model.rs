//! Jobs and leases in memory, as simple as possible: a claim must return what follows from due
//! times and from the pace of each destination.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::clock::Timestamp;
use domain::pace::{Feedback, Pace, PaceLimits};
use harness::world::LEASE;
use store::claim::ClaimBounds;
use store::lease_token::LeaseToken;

use super::{ACCOUNTS, DESTINATIONS, SILENT};

mod pace;

use pace::{Allowed, Breaker, Destination};

/// The number of an address. The remainder of its division by [`DESTINATIONS`] is the number of its
/// destination, which is called `place` here.
pub(super) type Slot = usize;

/// Returns the number of the account of an address.
pub(super) fn account(slot: Slot) -> usize {
    slot / DESTINATIONS % ACCOUNTS.len()
}

/// How many attempts others may get at a destination while an account waits for its turn there: one
/// or two for each of them.
const OVERTAKEN_MAX: usize = 2 * (ACCOUNTS.len() - 1);

/// The state that the store must have.
pub(super) struct Model {
    settings: Pace,
    max_lapses: u32,
    shards: Vec<u16>,
    jobs: BTreeMap<Slot, Job>,
    paces: Vec<Destination>,
    /// For each shard and token: when the lease ends, and the slots that are still in it, even if
    /// it is void for them.
    leases: BTreeMap<(u16, LeaseToken), (Timestamp, BTreeSet<Slot>)>,
    /// For each shard, how many unproven destinations wait for a place.
    pub(super) waiting: BTreeMap<u16, u64>,
    /// Unproven destinations that got an attempt while others waited for a place. Each gets no
    /// other attempt until one of its attempts, or the lease of one, has ended.
    awaiting_answer: BTreeSet<usize>,
    /// How many attempts others got at a place since an account waits for its turn there.
    overtaken: BTreeMap<(usize, usize), usize>,
}

struct Job {
    state: State,
    lapses: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Waiting(Timestamp),
    Leased(LeaseToken),
    Quarantined(Timestamp),
}

impl Model {
    pub(super) fn new(settings: Pace, max_lapses: u32, shards: Vec<u16>) -> Self {
        let paces = shards.iter().map(|_| Destination::default()).collect();
        Self {
            settings,
            max_lapses,
            shards,
            jobs: BTreeMap::new(),
            paces,
            leases: BTreeMap::new(),
            waiting: BTreeMap::new(),
            awaiting_answer: BTreeSet::new(),
            overtaken: BTreeMap::new(),
        }
    }

    pub(super) fn pace(&self, place: usize) -> &Destination {
        &self.paces[place]
    }

    pub(super) fn in_flight(&self, place: usize) -> u32 {
        let leased = |(slot, job): &(&Slot, &Job)| {
            *slot % DESTINATIONS == place && matches!(job.state, State::Leased(_))
        };
        self.jobs.iter().filter(leased).count() as u32
    }

    /// When the job is due, until when it is leased, and since when it is in quarantine.
    pub(super) fn job(
        &self,
        slot: Slot,
    ) -> Option<(Option<Timestamp>, Option<Timestamp>, Option<Timestamp>)> {
        self.jobs.get(&slot).map(|job| match job.state {
            State::Waiting(due) => (Some(due), None, None),
            State::Leased(token) => (None, Some(self.leases[&(self.shard(slot), token)].0), None),
            State::Quarantined(since) => (None, None, Some(since)),
        })
    }

    pub(super) fn quarantined(&self) -> impl Iterator<Item = Slot> {
        self.jobs
            .iter()
            .filter(|(_, job)| matches!(job.state, State::Quarantined(_)))
            .map(|(slot, _)| *slot)
    }

    pub(super) fn schedule(&mut self, slot: Slot, due: Timestamp) {
        self.jobs.insert(
            slot,
            Job {
                state: State::Waiting(due),
                lapses: 0,
            },
        );
    }

    pub(super) fn retire(&mut self, slot: Slot, now: Timestamp) {
        let in_flight = self.in_flight(slot % DESTINATIONS);
        if let Some(Job {
            state: State::Leased(token),
            ..
        }) = self.jobs.remove(&slot)
        {
            self.feed(slot, token, Feedback::Nothing, in_flight, now);
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        self.jobs.remove(&slot);
    }

    /// An attempt was settled and the job waits again. Its lapses are cleared.
    pub(super) fn reschedule(&mut self, slot: Slot, due: Timestamp) {
        self.schedule(slot, due);
    }

    pub(super) fn extend(&mut self, shard: u16, token: LeaseToken, deadline: Timestamp) {
        if let Some((until, _)) = self.leases.get_mut(&(shard, token)) {
            *until = deadline;
        }
    }

    /// Checks that a claim of one shard under `token` returned exactly the jobs that it should
    /// (`claimed`).
    pub(super) fn claim(
        &mut self,
        shard: u16,
        bounds: ClaimBounds,
        now: Timestamp,
        token: Option<LeaseToken>,
        claimed: &[Slot],
    ) {
        self.lapse(shard, now);
        let waiting = self.waiting.get(&shard).copied().unwrap_or(0);
        let part = bounds.unproven / usize::try_from(waiting).unwrap().max(1);
        let part = part.max(1);
        let (mut of_unproven, mut least, mut most) = (0, 0, 0);
        let mut claimed_unproven = Vec::new();
        for place in self.places(shard) {
            let due: Vec<Slot> = self.due(place, now);
            let of_place: Vec<Slot> = claimed
                .iter()
                .copied()
                .filter(|slot| slot % DESTINATIONS == place)
                .collect();
            assert!(
                of_place.iter().all(|slot| due.contains(slot)),
                "{of_place:?} are not all due, only {due:?}"
            );
            let allowed = self.allowed(place, now);
            let count = match allowed {
                Allowed::UpTo(count) => count,
                Allowed::Probe => 1,
            };
            let wanted = count.min(bounds.share).min(due.len());
            if self.paces[place].is_proven(&self.settings, now) {
                assert_eq!(of_place.len(), wanted, "destination {place}, due: {due:?}");
            } else {
                // While others wait for a place, each destination gets its part of the places. If
                // only one waits, the model does not know which one.
                let upper = if waiting > 1 {
                    wanted.min(part)
                } else {
                    wanted
                };
                assert!(of_place.len() <= upper, "destination {place}, due: {due:?}");
                of_unproven += of_place.len();
                most += upper;
                if !self.is_awaiting_answer(place) {
                    least += if waiting > 0 {
                        wanted.min(part)
                    } else {
                        wanted
                    };
                }
                if !of_place.is_empty() {
                    claimed_unproven.push(place);
                }
            }
            self.check_turns(place, &due, &of_place);
            if let Some(token) = token.filter(|_| !of_place.is_empty()) {
                self.paces[place].take(&self.settings, allowed, token, of_place.len(), now);
            }
            for slot in of_place {
                self.jobs.get_mut(&slot).unwrap().state = State::Leased(token.unwrap());
            }
        }
        let (least, most) = (least.min(bounds.unproven), most.min(bounds.unproven));
        assert!(
            (least..=most).contains(&of_unproven),
            "{least} to {most} jobs of unproven destinations, not {of_unproven}"
        );
        for place in claimed_unproven {
            if waiting > 0 || of_unproven == bounds.unproven {
                self.awaiting_answer.insert(place);
            } else {
                self.awaiting_answer.remove(&place);
            }
        }
        if let Some(token) = token {
            self.leases.insert(
                (shard, token),
                (now.plus(LEASE), claimed.iter().copied().collect()),
            );
            for place in self.places(shard) {
                self.paces[place].serial = token.serial;
            }
        }
    }

    /// Checks which of the due jobs of a place were claimed: each account's first jobs, and equally
    /// many of each account, as far as it has as many.
    fn check_turns(&mut self, place: usize, due: &[Slot], claimed: &[Slot]) {
        let of_account = |slots: &[Slot], number: usize| -> Vec<Slot> {
            let slots = slots.iter().copied();
            slots.filter(|slot| account(*slot) == number).collect()
        };
        let counts = [0, 1, 2].map(|number| of_account(claimed, number).len());
        let most = counts.iter().copied().max().unwrap_or(0);
        for (number, count) in counts.into_iter().enumerate() {
            let claimed_here = of_account(claimed, number);
            let latest = claimed_here
                .iter()
                .filter_map(|slot| self.due_of(*slot))
                .max();
            let left = of_account(due, number)
                .into_iter()
                .filter(|slot| !claimed.contains(slot))
                .filter_map(|slot| self.due_of(slot))
                .min();
            assert!(
                latest.is_none() || left.is_none() || latest <= left,
                "jobs of an account that are due first are claimed first"
            );
            let overtaken = self.overtaken.entry((place, number)).or_default();
            if left.is_none() || count > 0 {
                *overtaken = 0;
            } else {
                *overtaken += claimed.len();
            }
            assert!(*overtaken <= OVERTAKEN_MAX, "{number} gets no turn");
            assert!(
                left.is_none() || count + 1 >= most,
                "account {number} has due jobs left at place {place}: {counts:?}"
            );
        }
    }

    /// The earliest time from now on at which a claim of the shard would return a job, if nothing
    /// else happens.
    pub(super) fn earliest(&self, shard: u16, now: Timestamp) -> Option<Timestamp> {
        self.places(shard)
            .into_iter()
            .filter_map(|place| self.earliest_at(place, now))
            .min()
    }

    fn earliest_at(&self, place: usize, now: Timestamp) -> Option<Timestamp> {
        let first = self
            .jobs
            .keys()
            .filter(|slot| *slot % DESTINATIONS == place)
            .filter_map(|slot| self.due_of(*slot))
            .min()?;
        let at = first.max(now);
        if self.is_awaiting_answer(place) {
            return None;
        }
        if self.allowed(place, at) != Allowed::UpTo(0) {
            return Some(at);
        }
        let pace = &self.paces[place];
        match (pace.hold, pace.breaker) {
            (Some(until), _) if until.is_none_or(|until| until > at) => until,
            (_, Breaker::Open(until, _)) => Some(until.max(at)),
            // An attempt has to end, or a token has to be added.
            _ => None,
        }
    }

    fn is_awaiting_answer(&self, place: usize) -> bool {
        self.awaiting_answer.contains(&place) && self.in_flight(place) > 0
    }

    fn due(&self, place: usize, now: Timestamp) -> Vec<Slot> {
        let is_due = |slot: &Slot| self.due_of(*slot).is_some_and(|due| due <= now);
        self.jobs
            .keys()
            .copied()
            .filter(|slot| slot % DESTINATIONS == place)
            .filter(is_due)
            .collect()
    }

    fn due_of(&self, slot: Slot) -> Option<Timestamp> {
        match self.jobs.get(&slot)?.state {
            State::Waiting(due) => Some(due),
            State::Leased(_) | State::Quarantined(_) => None,
        }
    }

    fn allowed(&self, place: usize, now: Timestamp) -> Allowed {
        let is_in_flight = |probe| self.leases.contains_key(&(self.shards[place], probe));
        self.paces[place].allowed(&self.settings, self.in_flight(place), is_in_flight, now)
    }

    fn lapse(&mut self, shard: u16, now: Timestamp) {
        let over: Vec<_> = self
            .leases
            .iter()
            .filter(|((at, _), (until, _))| *at == shard && *until <= now)
            .collect();
        let over: Vec<_> = over
            .into_iter()
            .map(|(key, (until, slots))| (*key, *until, slots.clone()))
            .collect();
        let in_flight: Vec<u32> = (0..DESTINATIONS)
            .map(|place| self.in_flight(place))
            .collect();
        for (key, until, slots) in over {
            self.leases.remove(&key);
            for slot in slots {
                if self.is_leased_under(slot, key.1) {
                    self.end_by_lapse(slot, until, now);
                    self.feed(
                        slot,
                        key.1,
                        Feedback::Nothing,
                        in_flight[slot % DESTINATIONS],
                        now,
                    );
                }
            }
        }
    }

    fn end_by_lapse(&mut self, slot: Slot, due: Timestamp, now: Timestamp) {
        let job = self.jobs.get_mut(&slot).unwrap();
        job.lapses += 1;
        if job.lapses == self.max_lapses {
            (job.state, job.lapses) = (State::Quarantined(now), 0);
        } else {
            job.state = State::Waiting(due);
        }
    }

    pub(super) fn put_back(&mut self, slot: Slot, now: Timestamp) -> bool {
        let job = self
            .jobs
            .get_mut(&slot)
            .filter(|job| matches!(job.state, State::Quarantined(_)));
        job.map(|job| job.state = State::Waiting(now)).is_some()
    }

    /// Takes a job out of a lease. Returns whether the job was in it, even if the lease was void
    /// for the job.
    fn leave(&mut self, slot: Slot, token: LeaseToken) -> bool {
        let key = (self.shard(slot), token);
        let Some((_, slots)) = self.leases.get_mut(&key) else {
            return false;
        };
        let was_in_it = slots.remove(&slot);
        if slots.is_empty() {
            self.leases.remove(&key);
        }
        was_in_it
    }

    fn is_leased_under(&self, slot: Slot, token: LeaseToken) -> bool {
        self.jobs
            .get(&slot)
            .is_some_and(|job| job.state == State::Leased(token))
    }

    /// The numbers of the destinations of a shard.
    fn places(&self, shard: u16) -> Vec<usize> {
        (0..DESTINATIONS)
            .filter(|place| self.shards[*place] == shard)
            .collect()
    }

    fn shard(&self, slot: Slot) -> u16 {
        self.shards[slot % DESTINATIONS]
    }

    /// Settles an attempt. Returns whether the settlement counts. The feedback about the
    /// destination counts even if the attempt is void.
    pub(super) fn settle(
        &mut self,
        slot: Slot,
        token: LeaseToken,
        feedback: Feedback,
        now: Timestamp,
    ) -> bool {
        let (was_leased, valid) = (self.leave(slot, token), self.is_leased_under(slot, token));
        if was_leased {
            self.feed(
                slot,
                token,
                feedback,
                self.in_flight(slot % DESTINATIONS),
                now,
            );
            if matches!(
                feedback,
                Feedback::Good | Feedback::RouteFailed | Feedback::Answered
            ) {
                self.paces[slot % DESTINATIONS].note_answer(now);
            }
        }
        was_leased && valid
    }

    /// Gives up an attempt that had waited for an answer for this long. Returns whether its job was
    /// given back.
    pub(super) fn give_up(
        &mut self,
        slot: Slot,
        token: LeaseToken,
        due: Timestamp,
        waited: Duration,
        now: Timestamp,
    ) -> bool {
        let (was_leased, valid) = (self.leave(slot, token), self.is_leased_under(slot, token));
        if was_leased {
            let (place, in_flight) = (slot % DESTINATIONS, self.in_flight(slot % DESTINATIONS));
            self.paces[place].give_up(&self.settings, token, waited, in_flight, now);
        }
        if was_leased && valid {
            self.jobs.get_mut(&slot).unwrap().state = State::Waiting(due);
        }
        was_leased && valid
    }

    /// Records that an attempt has waited for an answer for this long. Returns whether its
    /// destination counts as silent.
    pub(super) fn note_silence(&mut self, place: usize, waited: Duration, now: Timestamp) -> bool {
        let has_no_answer = self.paces[place].has_no_answer(waited, now);
        if has_no_answer {
            self.paces[place].silent = Some(now.plus(SILENT));
        }
        has_no_answer
    }

    pub(super) fn release(
        &mut self,
        slot: Slot,
        token: LeaseToken,
        due: Timestamp,
        now: Timestamp,
    ) -> bool {
        let valid = self.settle(slot, token, Feedback::Nothing, now);
        if valid {
            self.jobs.get_mut(&slot).unwrap().state = State::Waiting(due);
        }
        valid
    }

    pub(super) fn crash(&mut self, slot: Slot, token: LeaseToken, now: Timestamp) {
        if self.leave(slot, token) && self.is_leased_under(slot, token) {
            self.feed(
                slot,
                token,
                Feedback::Nothing,
                self.in_flight(slot % DESTINATIONS),
                now,
            );
            self.end_by_lapse(slot, now, now);
        }
    }

    pub(super) fn hold(&mut self, place: usize, until: Option<Timestamp>) {
        self.paces[place].hold = Some(until);
    }

    pub(super) fn unhold(&mut self, place: usize, now: Timestamp) -> bool {
        self.paces[place]
            .hold
            .take()
            .is_some_and(|until| until.is_none_or(|until| until > now))
    }

    pub(super) fn override_limits(&mut self, place: usize, limits: Option<PaceLimits>) {
        self.paces[place].override_limits = limits;
    }

    /// An attempt ended, with this feedback about its destination. `in_flight` includes it.
    fn feed(
        &mut self,
        slot: Slot,
        token: LeaseToken,
        feedback: Feedback,
        in_flight: u32,
        now: Timestamp,
    ) {
        self.awaiting_answer.remove(&(slot % DESTINATIONS));
        self.paces[slot % DESTINATIONS].feed(&self.settings, token, feedback, in_flight, now);
    }
}
