//! Pace in memory and in the plainest way: what each destination may get now follows from its jobs and from what came back.

use std::collections::{BTreeMap, BTreeSet};

use harness::world::LEASE;
use shared::clock::Timestamp;
use shared::pace::{Feedback, Pace, PaceLimits};
use shared::store::destination::BreakerState;

use super::DESTINATIONS;

/// Which of the addresses. Its destination is the remainder.
pub(super) type Slot = usize;

/// What must be so.
pub(super) struct Model {
    settings: Pace,
    max_lapses: u32,
    shards: Vec<u16>,
    jobs: BTreeMap<Slot, Job>,
    paces: Vec<Destination>,
    /// By shard and token: when each ends, and on whom it still is, be it in vain.
    leases: BTreeMap<(u16, u64), (Timestamp, BTreeSet<Slot>)>,
}

struct Job {
    state: State,
    lapses: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Waiting(Timestamp),
    Leased(u64),
    Quarantined(Timestamp),
}

/// The pace of one destination.
#[derive(Default)]
pub(super) struct Destination {
    pub(super) window: Option<f64>,
    pub(super) override_limits: Option<PaceLimits>,
    tokens: Option<(f64, Timestamp)>,
    breaker: Breaker,
    results: Option<Results>,
    narrowed: u64,
    /// Until when it is held; none within is for ever.
    hold: Option<Option<Timestamp>>,
    /// The newest token of its shard.
    serial: u64,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Breaker {
    #[default]
    Closed,
    Open(Timestamp, u32),
    HalfOpen(u64, u32),
}

/// What came back since the first failure: in this period and the one before, as good and bad.
#[derive(Clone, Copy, Default)]
struct Results {
    row: u32,
    period: i64,
    now: (f64, f64),
    before: (f64, f64),
}

/// How many a destination may get.
#[derive(Clone, Copy, PartialEq)]
enum Allowed {
    Some(usize),
    Probe,
}

impl Model {
    pub(super) fn new(settings: Pace, max_lapses: u32, shards: Vec<u16>) -> Self {
        let paces = shards.iter().map(|_| Destination::default()).collect();
        Self { settings, max_lapses, shards, jobs: BTreeMap::new(), paces, leases: BTreeMap::new() }
    }

    pub(super) fn pace(&self, place: usize) -> &Destination {
        &self.paces[place]
    }

    pub(super) fn in_flight(&self, place: usize) -> u32 {
        let leased =
            |(slot, job): &(&Slot, &Job)| *slot % DESTINATIONS == place && matches!(job.state, State::Leased(_));
        self.jobs.iter().filter(leased).count() as u32
    }

    /// When the job is due, until when it is leased, and since when it is in quarantine.
    pub(super) fn job(&self, slot: Slot) -> Option<(Option<Timestamp>, Option<Timestamp>, Option<Timestamp>)> {
        self.jobs.get(&slot).map(|job| match job.state {
            State::Waiting(due) => (Some(due), None, None),
            State::Leased(token) => (None, Some(self.leases[&(self.shard(slot), token)].0), None),
            State::Quarantined(since) => (None, None, Some(since)),
        })
    }

    pub(super) fn quarantined(&self) -> impl Iterator<Item = Slot> {
        self.jobs.iter().filter(|(_, job)| matches!(job.state, State::Quarantined(_))).map(|(slot, _)| *slot)
    }

    pub(super) fn schedule(&mut self, slot: Slot, due: Timestamp) {
        self.jobs.insert(slot, Job { state: State::Waiting(due), lapses: 0 });
    }

    pub(super) fn retire(&mut self, slot: Slot, now: Timestamp) {
        let in_flight = self.in_flight(slot % DESTINATIONS);
        if let Some(Job { state: State::Leased(token), .. }) = self.jobs.remove(&slot) {
            self.feed(slot, token, Feedback::Nothing, in_flight, now);
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        self.jobs.remove(&slot);
    }

    /// An attempt was settled and the job waits again. Its lapses are forgotten.
    pub(super) fn reschedule(&mut self, slot: Slot, due: Timestamp) {
        self.schedule(slot, due);
    }

    pub(super) fn extend(&mut self, shard: u16, token: u64, deadline: Timestamp) {
        if let Some((until, _)) = self.leases.get_mut(&(shard, token)) {
            *until = deadline;
        }
    }

    /// A claim of one shard brought `had`, under `token`: exactly what it should have.
    pub(super) fn claim(&mut self, shard: u16, share: usize, now: Timestamp, token: Option<u64>, had: &[Slot]) {
        self.lapse(shard, now);
        for place in self.places(shard) {
            let due: Vec<Slot> = self.due(place, now);
            let of_place: Vec<Slot> = had.iter().copied().filter(|slot| slot % DESTINATIONS == place).collect();
            assert!(of_place.iter().all(|slot| due.contains(slot)), "{of_place:?} are not all due; {due:?} are");
            let allowed = self.allowed(place, now);
            let count = match allowed {
                Allowed::Some(count) => count,
                Allowed::Probe => 1,
            };
            assert_eq!(of_place.len(), count.min(share).min(due.len()), "destination {place}, due: {due:?}");
            let latest = of_place.iter().filter_map(|slot| self.due_of(*slot)).max();
            let left = due.iter().filter(|slot| !of_place.contains(slot)).filter_map(|slot| self.due_of(*slot)).min();
            assert!(latest.is_none() || left.is_none() || latest <= left, "those go first that are due first");
            if let Some(token) = token.filter(|_| !of_place.is_empty()) {
                self.take(place, allowed, token, of_place.len(), now);
            }
            for slot in of_place {
                self.jobs.get_mut(&slot).unwrap().state = State::Leased(token.unwrap());
            }
        }
        if let Some(token) = token {
            self.leases.insert((shard, token), (now.plus(LEASE), had.iter().copied().collect()));
            for place in self.places(shard) {
                self.paces[place].serial = token;
            }
        }
    }

    /// The earliest instant from now on at which a claim of the shard would bring something, as long as nothing happens.
    pub(super) fn earliest(&self, shard: u16, now: Timestamp) -> Option<Timestamp> {
        self.places(shard).into_iter().filter_map(|place| self.earliest_at(place, now)).min()
    }

    fn earliest_at(&self, place: usize, now: Timestamp) -> Option<Timestamp> {
        let first = self
            .jobs
            .keys()
            .filter(|slot| *slot % DESTINATIONS == place)
            .filter_map(|slot| self.due_of(*slot))
            .min()?;
        let at = first.max(now);
        if self.allowed(place, at) != Allowed::Some(0) {
            return Some(at);
        }
        let pace = &self.paces[place];
        match (pace.hold, pace.breaker) {
            (Some(until), _) if until.is_none_or(|until| until > at) => until,
            (_, Breaker::Open(until, _)) => Some(until.max(at)),
            // Somebody else has to make room, or a token has to come.
            _ => None,
        }
    }

    fn due(&self, place: usize, now: Timestamp) -> Vec<Slot> {
        let is_due = |slot: &Slot| self.due_of(*slot).is_some_and(|due| due <= now);
        self.jobs.keys().copied().filter(|slot| slot % DESTINATIONS == place).filter(is_due).collect()
    }

    fn due_of(&self, slot: Slot) -> Option<Timestamp> {
        match self.jobs.get(&slot)?.state {
            State::Waiting(due) => Some(due),
            State::Leased(_) | State::Quarantined(_) => None,
        }
    }

    fn allowed(&self, place: usize, now: Timestamp) -> Allowed {
        let pace = &self.paces[place];
        if pace.hold.is_some_and(|until| until.is_none_or(|until| until > now)) {
            return Allowed::Some(0);
        }
        match pace.breaker {
            Breaker::Open(until, _) if until > now => return Allowed::Some(0),
            Breaker::HalfOpen(token, _) if self.leases.contains_key(&(self.shards[place], token)) => {
                return Allowed::Some(0);
            }
            Breaker::Open(..) | Breaker::HalfOpen(..) => return Allowed::Probe,
            Breaker::Closed => {}
        }
        let limits = self.limits(place);
        let window = pace.window.unwrap_or(self.settings.window.into()).min(limits.window.into());
        let room = (window.floor() as u32).saturating_sub(self.in_flight(place)) as usize;
        if limits.rate == 0.0 {
            return Allowed::Some(room);
        }
        Allowed::Some(room.min((pace.saved(limits, now) + 1e-6) as usize))
    }

    fn limits(&self, place: usize) -> PaceLimits {
        self.paces[place].override_limits.unwrap_or(self.settings.limits)
    }

    fn take(&mut self, place: usize, allowed: Allowed, token: u64, count: usize, now: Timestamp) {
        let limits = self.limits(place);
        let pace = &mut self.paces[place];
        match (allowed, pace.breaker) {
            (Allowed::Probe, Breaker::Open(_, times) | Breaker::HalfOpen(_, times)) => {
                pace.breaker = Breaker::HalfOpen(token, times);
            }
            _ if limits.rate > 0.0 => {
                pace.tokens = Some((rounded(pace.saved(limits, now) - count as f64, 6), now));
            }
            _ => {}
        }
    }

    fn lapse(&mut self, shard: u16, now: Timestamp) {
        let over: Vec<_> = self.leases.iter().filter(|((at, _), (until, _))| *at == shard && *until <= now).collect();
        let over: Vec<_> = over.into_iter().map(|(key, (until, on))| (*key, *until, on.clone())).collect();
        let in_flight: Vec<u32> = (0..DESTINATIONS).map(|place| self.in_flight(place)).collect();
        for (key, until, on) in over {
            self.leases.remove(&key);
            for slot in on {
                if self.is_on(slot, key.1) {
                    self.end_by_lapse(slot, until, now);
                    self.feed(slot, key.1, Feedback::Nothing, in_flight[slot % DESTINATIONS], now);
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
        let job = self.jobs.get_mut(&slot).filter(|job| matches!(job.state, State::Quarantined(_)));
        job.map(|job| job.state = State::Waiting(now)).is_some()
    }

    /// Takes a job out of a lease. Whether it was in it; in vain too.
    fn leave(&mut self, slot: Slot, token: u64) -> bool {
        let key = (self.shard(slot), token);
        let Some((_, on)) = self.leases.get_mut(&key) else { return false };
        let was_on = on.remove(&slot);
        if on.is_empty() {
            self.leases.remove(&key);
        }
        was_on
    }

    fn is_on(&self, slot: Slot, token: u64) -> bool {
        self.jobs.get(&slot).is_some_and(|job| job.state == State::Leased(token))
    }

    /// The destinations of a shard.
    fn places(&self, shard: u16) -> Vec<usize> {
        (0..DESTINATIONS).filter(|place| self.shards[*place] == shard).collect()
    }

    fn shard(&self, slot: Slot) -> u16 {
        self.shards[slot % DESTINATIONS]
    }

    /// Whether the settlement counts. What a void attempt says of its destination is heard.
    pub(super) fn settle(&mut self, slot: Slot, token: u64, feedback: Feedback, now: Timestamp) -> bool {
        let (was_on, valid) = (self.leave(slot, token), self.is_on(slot, token));
        if was_on {
            self.feed(slot, token, feedback, self.in_flight(slot % DESTINATIONS), now);
        }
        was_on && valid
    }

    pub(super) fn release(&mut self, slot: Slot, token: u64, due: Timestamp, now: Timestamp) -> bool {
        let valid = self.settle(slot, token, Feedback::Nothing, now);
        if valid {
            self.jobs.get_mut(&slot).unwrap().state = State::Waiting(due);
        }
        valid
    }

    pub(super) fn crash(&mut self, slot: Slot, token: u64, now: Timestamp) {
        if self.leave(slot, token) && self.is_on(slot, token) {
            self.feed(slot, token, Feedback::Nothing, self.in_flight(slot % DESTINATIONS), now);
            self.end_by_lapse(slot, now, now);
        }
    }

    pub(super) fn hold(&mut self, place: usize, until: Option<Timestamp>) {
        self.paces[place].hold = Some(until);
    }

    pub(super) fn unhold(&mut self, place: usize, now: Timestamp) -> bool {
        self.paces[place].hold.take().is_some_and(|until| until.is_none_or(|until| until > now))
    }

    pub(super) fn override_limits(&mut self, place: usize, limits: Option<PaceLimits>) {
        self.paces[place].override_limits = limits;
    }

    /// An attempt ended, and says something of its destination; `in_flight` counts it.
    fn feed(&mut self, slot: Slot, token: u64, feedback: Feedback, in_flight: u32, now: Timestamp) {
        let place = slot % DESTINATIONS;
        let window_max = f64::from(self.limits(place).window);
        let settings = self.settings;
        let pace = &mut self.paces[place];
        let open = |times: u32| {
            let longer = settings.breaker.open * 2_u32.pow(times.min(20));
            Breaker::Open(now.plus(longer.min(settings.breaker.open_max)), times + 1)
        };
        match pace.breaker {
            Breaker::HalfOpen(probe, times) if probe == token => match feedback {
                Feedback::Good => {
                    pace.window = Some(settings.window_min.into());
                    (pace.breaker, pace.results) = (Breaker::Closed, None);
                }
                Feedback::HostFailed | Feedback::RouteFailed => {
                    (pace.breaker, pace.results) = (open(times), None);
                }
                Feedback::Nothing => pace.breaker = Breaker::Open(now.plus(settings.breaker.open), times),
            },
            Breaker::Open(..) | Breaker::HalfOpen(..) => {}
            Breaker::Closed => {
                let window = pace.window.unwrap_or(settings.window.into());
                let failed = matches!(feedback, Feedback::HostFailed | Feedback::RouteFailed);
                if failed && token > pace.narrowed {
                    let left = window.min(in_flight.into()) * 0.7;
                    pace.window = Some(rounded(left.max(settings.window_min.into()), 3));
                    pace.narrowed = pace.serial;
                } else if feedback == Feedback::Good && f64::from(in_flight) * 2.0 >= window {
                    let wider = (window + 1.0 / window).min(window_max);
                    if wider != window {
                        pace.window = Some(rounded(wider, 3));
                    }
                }
                if pace.count(feedback, &settings, now) {
                    (pace.breaker, pace.results) = (open(0), None);
                }
            }
        }
    }
}

impl Destination {
    pub(super) fn breaker_state(&self) -> BreakerState {
        match self.breaker {
            Breaker::Closed => BreakerState::Closed,
            Breaker::Open(until, times) => BreakerState::Open { until, times },
            Breaker::HalfOpen(_, times) => BreakerState::HalfOpen { times },
        }
    }

    fn saved(&self, limits: PaceLimits, now: Timestamp) -> f64 {
        self.tokens.map_or(limits.burst, |(saved, at)| {
            (saved + now.since(at).as_millis() as f64 * limits.rate / 1_000.0).min(limits.burst)
        })
    }

    /// Counts what came back; whether that opens the breaker.
    fn count(&mut self, feedback: Feedback, settings: &Pace, now: Timestamp) -> bool {
        let good = f64::from(u8::from(feedback == Feedback::Good));
        let bad = f64::from(u8::from(feedback == Feedback::HostFailed));
        if bad == 0.0 && self.results.is_none() {
            return false;
        }
        let over = settings.breaker.over.as_millis() as i64;
        let period = now.ms().div_euclid(over);
        let mut results = self.results.unwrap_or_default();
        match period - results.period {
            0 => {}
            1 => (results.before, results.now) = (results.now, (0.0, 0.0)),
            _ => (results.before, results.now) = ((0.0, 0.0), (0.0, 0.0)),
        }
        results.period = period;
        results.now = (results.now.0 + good, results.now.1 + bad);
        results.row = if good > 0.0 { 0 } else { results.row + bad as u32 };
        let left = 1.0 - now.ms().rem_euclid(over) as f64 / over as f64;
        let tried = results.now.0 + results.now.1 + left * (results.before.0 + results.before.1);
        let failed = results.now.1 + left * results.before.1;
        let forgotten = results.row == 0 && results.now.1 == 0.0 && results.before.1 == 0.0;
        self.results = (!forgotten).then_some(results);
        let breaker = settings.breaker;
        results.row >= breaker.failures || (tried >= breaker.samples.into() && failed >= breaker.share * tried)
    }
}

/// As it is after it was written with so many digits.
fn rounded(number: f64, digits: usize) -> f64 {
    format!("{number:.digits$}").parse().unwrap()
}
