//! In any order of events, a claim returns exactly the due jobs that pace, breakers and
//! operators allow: no more, no fewer and no later, and the accounts that share a destination get
//! equally many attempts. The tallies are exact too.

// Random operations on the real store must match a model in memory.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use domain::account::Account;
use domain::address::Address;
use domain::destination::Destination;
use domain::event::EventKind;
use domain::job::JobId;
use domain::pace::{Breaker, Pace, PaceLimits};
use domain::tally::Tally;
use harness::bounce::{AWAY, FULL, MAINTENANCE, OK, UNKNOWN, bounce};
use harness::cluster;
use harness::random::{Random, seeds};
use harness::world::{DAY, Deployment, HOUR, LEASE, MS, Settings, World};
use store::claim::{ClaimBounds, Claimed, LeasedJob};
use store::destination_controls::BreakerState;
use store::lease::ReleaseReason;
use store::repair::Repaired;
use store::schedule::Answer;
use store::settle::Settled;

mod model;

use model::{Model, Slot, account};

const OPERATIONS: usize = 500;
const SLOTS: usize = 240;
const DESTINATIONS: usize = 3;
const ACCOUNTS: [&str; 3] = ["default", "acme", "beta"];
const MAX_LAPSES: u32 = 2;

const BUSY: &str = "421 4.7.28 Our system has detected an unusual rate of mail from your address";
const OVER_QUOTA: &str = "450 4.2.2 Mailbox full";

/// The replies to retries, with their weights.
const REPLIES: [(usize, &str); 6] = [
    (20, OK),
    (6, MAINTENANCE),
    (2, BUSY),
    (2, OVER_QUOTA),
    (1, UNKNOWN),
    (2, AWAY),
];
const REPLIES_WHILE_DOWN: [(usize, &str); 3] = [(1, OK), (20, MAINTENANCE), (1, AWAY)];

/// Events that must occur. Without them, the tests would check too little.
const WANTED: [EventKind; 8] = [
    EventKind::BreakerClosed,
    EventKind::BreakerOpened,
    EventKind::DestinationHeld,
    EventKind::DestinationLimited,
    EventKind::DestinationReleased,
    EventKind::JobLapsed,
    EventKind::JobQuarantined,
    EventKind::JobReinstated,
];

/// How long a destination counts as silent after a report of its silence.
const SILENT: Duration = Duration::from_secs(5);

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn after_random_operations_claims_respect_pace_and_breakers_and_holds_and_quarantine() {
    run_all(6, &Deployment::default()).await;
}

#[tokio::test]
async fn after_random_operations_in_a_cluster_claims_respect_pace_and_breakers_and_holds_too() {
    for prefix in run_all(6, &Deployment::Cluster).await {
        assert!(
            cluster::masters_with(&prefix) > 1,
            "several masters are used"
        );
    }
}

/// Runs `count` seeds. Returns the prefixes of their keys.
async fn run_all(count: u64, redis: &Deployment) -> Vec<String> {
    let (mut kinds, mut prefixes) = (BTreeMap::<EventKind, usize>::new(), Vec::new());
    for seed in seeds(count) {
        // Printed if the test fails.
        println!("seed {seed}");
        let settings = Settings {
            redis: redis.clone(),
            pace: pace(),
            max_lapses: MAX_LAPSES,
            ..Settings::default()
        };
        let mut run = Run::new(World::with(settings).await, seed);
        for n in 0..OPERATIONS {
            run.operate().await;
            run.compare_paces().await;
            if n % 50 == 0 {
                run.compare_jobs().await;
            }
        }
        run.compare_tallies().await;
        for event in run.world.events().await {
            *kinds.entry(event.kind).or_default() += 1;
        }
        prefixes.push(run.world.prefix);
    }
    for kind in WANTED {
        assert!(
            kinds.get(&kind).is_some_and(|count| *count >= 2),
            "an event that never occurs is not tested: {kinds:?}"
        );
    }
    prefixes
}

fn pace() -> Pace {
    let breaker = Breaker {
        failures: 4,
        share: 0.6,
        samples: 6,
        over: 60 * SECOND,
        open: 20 * SECOND,
        open_max: 100 * SECOND,
    };
    Pace {
        limits: PaceLimits {
            rate: 0.0,
            burst: 1.0,
            window: 6,
        },
        window_new: 2,
        answered_within: 600 * SECOND,
        window: 4,
        window_min: 1,
        breaker,
    }
}

/// The real store, the model, and the leases that workers have.
struct Run {
    world: World,
    random: Random,
    model: Model,
    leases: Vec<LeasedJob>,
    destinations: Vec<Destination>,
    /// How many addresses of each slot were retired. A slot always has one active address.
    retired: [usize; SLOTS],
    /// Which destinations fail.
    down: [bool; DESTINATIONS],
    slots: HashMap<String, Slot>,
    tallies: BTreeMap<(usize, i64, String), u64>,
}

impl Run {
    fn new(world: World, seed: u64) -> Self {
        let shard = |name: &Destination| name.shard(world.store.shards());
        // Two destinations share a shard.
        let names = || (0..).map(|n| Destination::named(format!("host{n}.example")));
        let first = names()
            .next()
            .expect("one of infinitely many names is in the shard");
        let second = names()
            .find(|name| *name != first && shard(name) == shard(&first))
            .expect("one of infinitely many names is in the shard");
        // Neighbouring shards can be on the same master of a Cluster.
        let far = (shard(&first) + world.store.shards() / 2) % world.store.shards();
        let third = names()
            .find(|name| shard(name) == far)
            .expect("one of infinitely many names is in the shard");
        let destinations = vec![first, second, third];
        let shards = destinations.iter().map(shard).collect();
        Self {
            model: Model::new(pace(), MAX_LAPSES, shards),
            random: Random::from_seed(seed),
            leases: Vec::new(),
            retired: [0; SLOTS],
            down: [false; DESTINATIONS],
            slots: HashMap::new(),
            tallies: BTreeMap::new(),
            destinations,
            world,
        }
    }

    async fn operate(&mut self) {
        self.world.clock.advance(MS);
        match self.random.below(43) {
            0..7 => {
                for _ in 0..5 {
                    let slot = self.random.below(SLOTS);
                    self.post(slot, FULL).await;
                }
            }
            7 => self.retire().await,
            8..14 => self.claim().await,
            14..27 => self.finish_an_attempt().await,
            27 => self.give_back(false).await,
            28 => self.give_back(true).await,
            29 => self.extend().await,
            // A worker crashes.
            30 => self.leases.truncate(1),
            31 => self.hold_or_release().await,
            32 => self.override_limits().await,
            33 => self.put_back().await,
            34 => {
                self.world.restart().await;
                for shard in 0..self.world.store.shards() {
                    let repaired = self.world.store.repair(shard).await.unwrap();
                    assert_eq!(repaired, Repaired::default(), "nothing needs repair");
                    self.world.store.trim_marks(shard).await.unwrap();
                }
                assert_eq!(self.world.store.limit().await.unwrap(), 0);
            }
            35 => {
                let place = self.random.below(DESTINATIONS);
                self.down[place] = !self.down[place];
            }
            36 => self.give_up().await,
            37 | 38 => self.note_silence().await,
            _ => {
                let steps = [
                    (8, SECOND / 10),
                    (8, SECOND),
                    (8, 10 * SECOND),
                    (4, 20 * SECOND),
                    (2, LEASE / 2),
                    (2, LEASE),
                    (1, HOUR),
                    (1, DAY),
                ];
                self.world.clock.advance(self.random.weighted(&steps));
            }
        }
    }

    fn address(&self, slot: Slot) -> String {
        format!(
            "user{slot}-{}@{}",
            self.retired[slot],
            self.destinations[slot % DESTINATIONS]
        )
    }

    /// The job of a slot's address.
    fn job_id(&self, slot: Slot) -> JobId {
        JobId {
            account: Account::parse(ACCOUNTS[account(slot)]).unwrap(),
            recipient: Address::parse(&self.address(slot)).unwrap(),
        }
    }

    /// An address turns out to be dead, usually while it is leased.
    async fn retire(&mut self) {
        let of_lease = self.leases.first().filter(|_| self.random.below(3) > 0);
        let slot = of_lease.map(|leased| self.slots[leased.lease.recipient()]);
        let slot = slot.unwrap_or_else(|| self.random.below(SLOTS));
        self.post(slot, UNKNOWN).await;
    }

    async fn post(&mut self, slot: Slot, reply: &str) {
        let address = self.address(slot);
        self.slots.insert(address.clone(), slot);
        let mut posted = bounce(&address, &format!("m{}", self.random.below(1_000)), reply);
        posted["account"] = ACCOUNTS[account(slot)].into();
        // Most jobs are due soon.
        let ago = [20 * HOUR, 24 * HOUR, 27 * HOUR, 27 * HOUR];
        let occurred = self.world.now().ms() - self.random.of(&ago).as_millis() as i64;
        posted["occurred_at"] = domain::clock::Timestamp::from_ms(occurred)
            .to_string()
            .into();
        match self.world.post_bounce(posted).await {
            Answer::Scheduled { due } => self.model.schedule(slot, due),
            Answer::Retired(_) => {
                self.model.retire(slot, self.world.now());
                self.retired[slot] += 1;
            }
            Answer::Joined { .. } | Answer::Duplicate | Answer::Stale => {}
            Answer::Dropped => panic!("no bounce is about a single message"),
            Answer::Accepted(_) | Answer::Deferred { .. } => {
                panic!("nothing waits for confirmation")
            }
        }
    }

    async fn claim(&mut self) {
        let (share, unproven) = (
            self.random.of(&[1, 2, 100]),
            self.random.of(&[0, 1, 2, 100, 100, 100]),
        );
        let bounds = ClaimBounds {
            batch: 100,
            share,
            lease: LEASE,
            unproven,
        };
        let now = self.world.now();
        for shard in 0..self.world.store.shards() {
            let claimed: Claimed = self.world.store.claim(shard, bounds).await.unwrap();
            let token = claimed.jobs.first().map(|leased| leased.lease.token);
            let mut had: Vec<Slot> = Vec::new();
            for leased in &claimed.jobs {
                assert_eq!(
                    Some(leased.lease.token),
                    token,
                    "the jobs of one claim share one lease"
                );
                had.push(self.slots[leased.lease.recipient()]);
            }
            self.model.claim(shard, bounds, now, token, &had);
            let waits = self.model.earliest(shard, now);
            let is_short = claimed.unproven_waiting > 0;
            self.model.waiting.insert(shard, claimed.unproven_waiting);
            assert!(
                waits.is_none() || is_short || claimed.next_visit <= waits,
                "{:?} is later than {waits:?}",
                claimed.next_visit
            );
            self.leases.extend(claimed.jobs);
        }
    }

    /// A worker finishes its attempt, in time or long after its lease lapsed.
    async fn finish_an_attempt(&mut self) {
        let Some(leased) = self.take_a_lease() else {
            return self.claim().await;
        };
        let slot = self.slots[leased.lease.recipient()];
        let reply = match self.down[slot % DESTINATIONS] {
            true => self.random.weighted(&REPLIES_WHILE_DOWN),
            false => self.random.weighted(&REPLIES),
        };
        self.world.mail.reply_with(reply);
        let lease = leased.lease.clone();
        let settlement = self.world.attempt(leased).await;
        let settled = self.world.settle(&settlement).await;
        let now = self.world.now();
        let valid = self
            .model
            .settle(slot, lease.token, settlement.feedback, now);
        assert_eq!(settled == Settled::Done, valid, "{slot}");
        if !valid {
            return;
        }
        let day = now.ms().div_euclid(86_400_000);
        *self
            .tallies
            .entry((slot % DESTINATIONS, day, settlement.tally.to_string()))
            .or_default() += 1;
        let job = JobId::from_key(&lease.job).unwrap();
        let report = self.world.store.address(&job).await.unwrap();
        // The policy decides about the job. Other tests check that.
        match report.job {
            Some(job) => self.model.reschedule(slot, job.due.unwrap()),
            None => self.model.remove(slot),
        }
        if report.standing.is_some() {
            self.retired[slot] += 1;
        }
    }

    async fn give_back(&mut self, crashed: bool) {
        let Some(leased) = self.take_a_lease() else {
            return;
        };
        let (lease, now) = (&leased.lease, self.world.now());
        let slot = self.slots[lease.recipient()];
        if crashed {
            self.world.crash(lease).await;
            self.model.crash(slot, lease.token, now);
        } else {
            let released = self.world.release(lease).await;
            assert_eq!(
                released,
                self.model.release(slot, lease.token, lease.due, now)
            );
        }
    }

    /// A worker gives up an attempt, because no host has answered for some time and other
    /// destinations need its permit.
    async fn give_up(&mut self) {
        let Some(leased) = self.take_a_lease() else {
            return;
        };
        let (lease, now) = (&leased.lease, self.world.now());
        let waited = self.random.of(&[SECOND, 10 * SECOND, LEASE]);
        let why = ReleaseReason::Unanswered(waited);
        let released = self
            .world
            .store
            .release(std::slice::from_ref(lease), why)
            .await
            .unwrap()
            == 1;
        let slot = self.slots[lease.recipient()];
        assert_eq!(
            released,
            self.model
                .give_up(slot, lease.token, lease.due, waited, now)
        );
    }

    async fn note_silence(&mut self) {
        let place = self.random.below(DESTINATIONS);
        let (destination, waited) = (
            self.destinations[place].clone(),
            self.random.of(&[SECOND, 10 * SECOND, LEASE]),
        );
        let shard = destination.shard(self.world.store.shards());
        let is_silent = self
            .world
            .store
            .note_silence(shard, &[(destination, waited)])
            .await
            .unwrap();
        assert_eq!(
            is_silent,
            [self.model.note_silence(place, waited, self.world.now())]
        );
    }

    async fn extend(&mut self) {
        let Some(leased) = self.take_a_lease() else {
            return;
        };
        self.world.extend(&leased.lease).await;
        self.model.extend(
            leased.lease.shard,
            leased.lease.token,
            self.world.now().plus(LEASE),
        );
        self.leases.push(leased);
    }

    async fn hold_or_release(&mut self) {
        let place = self.random.below(DESTINATIONS);
        let destination = &self.destinations[place];
        if self.random.below(2) == 0 {
            let released = self.world.store.unhold(destination).await.unwrap();
            assert_eq!(released, self.model.unhold(place, self.world.now()));
        } else {
            let until = self
                .random
                .of(&[None, Some(SECOND), Some(10 * SECOND), Some(LEASE)]);
            let until = until.map(|span| self.world.now().plus(span));
            self.world
                .store
                .hold(destination, until, "by an operator")
                .await
                .unwrap();
            self.model.hold(place, until);
        }
    }

    async fn override_limits(&mut self) {
        let place = self.random.below(DESTINATIONS);
        let limits = |rate, burst, window| {
            Some(PaceLimits {
                rate,
                burst,
                window,
            })
        };
        let all = [
            None,
            None,
            limits(0.5, 2.0, 4),
            limits(2.0, 1.0, 2),
            limits(0.3, 3.0, 6),
            limits(0.0, 1.0, 10),
        ];
        let limits = self.random.of(&all);
        self.world
            .store
            .override_limits(&self.destinations[place], limits)
            .await
            .unwrap();
        self.model.override_limits(place, limits);
    }

    async fn put_back(&mut self) {
        let slot = self
            .model
            .quarantined()
            .next()
            .unwrap_or_else(|| self.random.below(SLOTS));
        let was_there = self.world.store.put_back(&self.job_id(slot)).await.unwrap();
        assert_eq!(was_there, self.model.put_back(slot, self.world.now()));
    }

    fn take_a_lease(&mut self) -> Option<LeasedJob> {
        let count = self.leases.len();
        (count > 0).then(|| self.leases.swap_remove(self.random.below(count)))
    }

    async fn compare_paces(&self) {
        for (place, destination) in self.destinations.iter().enumerate() {
            let had = self.world.store.pace(destination).await.unwrap();
            let wanted = self.model.pace(place);
            assert_eq!(
                had.in_flight,
                self.model.in_flight(place),
                "attempts in flight at {destination}"
            );
            assert_eq!(had.window, wanted.window, "{destination}");
            assert_eq!(
                (had.answered, had.silent_until),
                (wanted.answered, wanted.silent),
                "{destination}"
            );
            assert_eq!(had.breaker, wanted.breaker_state(), "{destination}");
            assert_eq!(had.override_limits, wanted.override_limits, "{destination}");
            assert!(
                had.in_flight <= 10 || had.breaker != BreakerState::Closed,
                "no window is wider than ten"
            );
        }
    }

    async fn compare_jobs(&self) {
        for slot in 0..SLOTS {
            let had = self.world.store.address(&self.job_id(slot)).await.unwrap();
            let had = had
                .job
                .map(|job| (job.due, job.leased_until, job.quarantined_since));
            assert_eq!(had, self.model.job(slot), "slot {slot}");
        }
    }

    async fn compare_tallies(&self) {
        let mut had = BTreeMap::new();
        let start = Settings::default().start;
        let days = self.world.now().since(start).as_secs() / 86_400 + 2;
        for (place, destination) in self.destinations.iter().enumerate() {
            for day in 0..days {
                let day = start.plus(DAY * u32::try_from(day).unwrap());
                for (tally, count) in self.world.store.tally(destination, day).await.unwrap() {
                    let tally: Tally = tally;
                    had.insert(
                        (place, day.ms().div_euclid(86_400_000), tally.to_string()),
                        count,
                    );
                }
            }
        }
        assert_eq!(had, self.tallies, "each settled attempt is counted once");
    }
}
