//! Every accepted message ends in exactly one final event, in any order of events.

// Random operations on the real store must match a model in memory. At the end no job may be left
// over.

use std::collections::BTreeMap;

use domain::clock::Timestamp;
use domain::pace::Pace;
use harness::bounce::{AWAY, FULL, FULL_FOR_GOOD, MAINTENANCE, OK, TOO_BIG, UNKNOWN, bounce};
use harness::cluster;
use harness::random::{Random, seeds};
use harness::world::{DAY, Deployment, HOUR, LEASE, MS, Settings, World};
use serde_json::json;
use store::claim::{Lease, LeasedJob};
use store::facts::FactAnswer;
use store::lease::Extended;
use store::repair::Repaired;
use store::schedule::Answer;
use store::settle::Settled;

mod model;

use model::{AddressState, Model, delays};

const OPERATIONS: usize = 600;
const MAX_MESSAGES: usize = 2;
const ADDRESSES: [&str; 12] = [
    "a@one.example",
    "b@one.example",
    "c@one.example",
    "d@one.example",
    "e@one.example",
    "f@two.example",
    "g@two.example",
    "h@two.example",
    "i@three.example",
    "j@three.example",
    "k@three.example",
    "l@three.example",
];

/// The replies in bounces and in retries, with their weights. Replies that retire an address are
/// rare, because little happens with the address after that.
const BOUNCES: [(usize, &str); 5] = [
    (8, FULL),
    (8, MAINTENANCE),
    (2, TOO_BIG),
    (1, FULL_FOR_GOOD),
    (1, UNKNOWN),
];
const REPLIES: [(usize, &str); 7] = [
    (5, OK),
    (4, FULL),
    (6, MAINTENANCE),
    (3, TOO_BIG),
    (3, AWAY),
    (1, FULL_FOR_GOOD),
    (1, UNKNOWN),
];

/// The facts about addresses, with their weights. Complaints are rare, and operators reinstate
/// their addresses.
const FACTS: [(usize, &str); 4] = [
    (3, "delivered"),
    (4, "engaged"),
    (1, "complaint"),
    (3, "reinstate"),
];

#[tokio::test]
async fn after_random_operations_every_message_has_ended_exactly_once() {
    for seed in seeds(8) {
        run(seed, Deployment::default()).await;
    }
}

#[tokio::test]
async fn after_random_operations_in_a_cluster_every_message_has_ended_exactly_once() {
    for seed in seeds(3) {
        let prefix = run(seed, Deployment::Cluster).await;
        assert!(
            cluster::masters_with(&prefix) > 1,
            "several masters are used"
        );
    }
}

/// Runs one seed. Returns the prefix of the keys.
async fn run(seed: u64, redis: Deployment) -> String {
    // Printed if the test fails.
    println!("seed {seed}");
    let settings = Settings {
        redis,
        max_messages: MAX_MESSAGES,
        max_lapses: 1_000,
        pace: Pace::unbounded(),
        ..Settings::default()
    };
    let world = World::with(settings).await;
    let mut run = Run {
        world,
        random: Random::from_seed(seed),
        model: Model::default(),
        leases: Vec::new(),
    };
    for n in 0..OPERATIONS {
        run.operate().await;
        if n % 8 == 0 {
            run.compare().await;
        }
    }
    run.end_everything().await;
    run.world.prefix
}

/// The real store, the model, and the leases that workers have.
struct Run {
    world: World,
    random: Random,
    model: Model,
    leases: Vec<LeasedJob>,
}

impl Run {
    async fn operate(&mut self) {
        self.world.clock.advance(MS);
        match self.random.below(23) {
            0..7 => self.post_a_bounce().await,
            7..10 => self.claim().await,
            10..14 => self.finish_an_attempt().await,
            14 => self.release().await,
            15 => self.extend().await,
            16 => {
                // A worker crashes.
                self.take_a_lease();
            }
            17..19 => {
                let steps = [
                    LEASE / 2,
                    LEASE / 2,
                    LEASE,
                    LEASE,
                    HOUR,
                    HOUR,
                    6 * HOUR,
                    DAY,
                    5 * DAY,
                    31 * DAY,
                ];
                self.world.clock.advance(self.random.of(&steps));
            }
            19 => {
                for shard in 0..self.world.store.shards() {
                    let repaired = self.world.store.repair(shard).await.unwrap();
                    assert_eq!(repaired, Repaired::default(), "nothing needs repair");
                    self.world.store.trim_marks(shard).await.unwrap();
                }
            }
            20..22 => self.report_a_fact().await,
            _ => {
                let reinstated = self.world.store.reinstate().await.unwrap();
                assert_eq!(reinstated, self.model.reinstate(self.world.now()));
            }
        }
    }

    async fn post_a_bounce(&mut self) {
        let address = self.random.of(&ADDRESSES);
        let message = format!("m{}", self.random.below(9));
        let reply = self.random.weighted(&BOUNCES);
        let occurred =
            Timestamp::from_ms(self.world.now().ms() - self.random.below(7_200_000) as i64);
        let mut posted = bounce(address, &message, reply);
        posted["occurred_at"] = occurred.to_string().into();
        let answer = self.world.post_bounce(posted).await;
        let expected = self
            .model
            .post(address, &message, reply, occurred, self.world.now());
        assert_eq!(
            answer_name(&answer),
            expected,
            "{address} {message} {reply}"
        );
        if let Answer::Scheduled { due } = answer {
            let earliest = occurred.plus(delays(reply)[0]).max(self.world.now());
            let latest = occurred
                .plus(delays(reply)[0].mul_f64(1.1))
                .max(self.world.now());
            assert!(
                (earliest..=latest).contains(&due),
                "{due} is not from {earliest} to {latest}"
            );
            self.model.jobs.get_mut(address).unwrap().due = due;
        }
    }

    /// A platform or an operator reports something about an address.
    async fn report_a_fact(&mut self) {
        let address = self.random.of(&ADDRESSES);
        let kind = self.random.weighted(&FACTS);
        let message = format!("m{}", self.random.below(9));
        let message = Some(message).filter(|_| self.random.below(2) == 0 && kind != "reinstate");
        let answer = if kind == "reinstate" {
            self.world.reinstate(address).await
        } else {
            self.world
                .report_fact(json!({"type": kind, "recipient": address, "message_id": message}))
                .await
        };
        let expected = self
            .model
            .report(address, kind, message.as_deref(), self.world.now());
        assert_eq!(
            fact_answer(&answer),
            expected,
            "{address} {kind} {message:?}"
        );
    }

    async fn claim(&mut self) {
        let mut claimed = self.world.claim().await;
        claimed.sort_by(|a, b| a.job.id.cmp(&b.job.id));
        let keys = claimed
            .iter()
            .map(|leased| (known_address(&leased.lease), leased.lease.key()))
            .collect();
        let had: Vec<_> = claimed
            .iter()
            .map(|leased| known_address(&leased.lease))
            .collect();
        assert_eq!(had, self.model.claim(self.world.now(), &keys));
        self.leases.extend(claimed);
    }

    /// A worker finishes its attempt, in time or long after its lease lapsed.
    async fn finish_an_attempt(&mut self) {
        let Some(leased) = self.take_a_lease() else {
            return;
        };
        let replies = [0; MAX_MESSAGES].map(|_| self.random.weighted(&REPLIES));
        self.world.mail.reply_in_turn(&replies);
        let lease = leased.lease.clone();
        let settlement = self.world.attempt(leased).await;
        let settled = self.world.settle(&settlement).await;
        let address = known_address(&lease);
        let valid = self.model.end_lease(address, lease.key());
        assert_eq!(settled == Settled::Done, valid, "{address} {replies:?}");
        if !valid {
            return;
        }
        if let Some(delay) = self.model.settle(address, &replies, self.world.now()) {
            let due = self.world.job(address).await.due.unwrap();
            let (earliest, latest) = (
                self.world.now().plus(delay),
                self.world.now().plus(delay.mul_f64(1.1)),
            );
            assert!(
                (earliest..=latest).contains(&due),
                "{due} is not from {earliest} to {latest}"
            );
            self.model.jobs.get_mut(address).unwrap().due = due;
        }
    }

    async fn release(&mut self) {
        let Some(leased) = self.take_a_lease() else {
            return;
        };
        let released = self.world.release(&leased.lease).await;
        let address = known_address(&leased.lease);
        let valid = self.model.end_lease(address, leased.lease.key());
        assert_eq!(released, valid);
        if valid {
            self.model.put_back(address, leased.lease.due);
        }
    }

    async fn extend(&mut self) {
        let Some(leased) = self.take_a_lease() else {
            return;
        };
        let extended = self.world.extend(&leased.lease).await;
        let lasts = self
            .model
            .extend(leased.lease.key(), self.world.now().plus(LEASE));
        assert_eq!(matches!(extended, Extended::Yes(_)), lasts);
        self.leases.push(leased);
    }

    fn take_a_lease(&mut self) -> Option<LeasedJob> {
        let count = self.leases.len();
        (count > 0).then(|| self.leases.swap_remove(self.random.below(count)))
    }

    async fn compare(&self) {
        for address in ADDRESSES {
            let report = self.world.report(address).await;
            let had = report.job.map(|had| {
                let messages: Vec<String> = had
                    .job
                    .messages
                    .into_iter()
                    .map(|message| message.id)
                    .collect();
                (had.job.head.attempt, messages, had.due, had.leased_until)
            });
            let wanted = self.model.jobs.get(address).map(|job| {
                let lease_end = self.model.leased_until(job);
                let until = lease_end.filter(|end| *end > self.world.now());
                // A job whose lease has run out is due since then.
                let due = until.is_none().then_some(lease_end.unwrap_or(job.due));
                (job.attempt, job.messages.clone(), due, until)
            });
            assert_eq!(had, wanted, "{address}");
            let had = report.standing.map(|had| AddressState {
                standing: had.standing,
                until: had.until,
                strikes: had.strikes,
            });
            assert_eq!(had.as_ref(), self.model.standings.get(address), "{address}");
        }
    }

    /// Delivers every message until no job is left. Then counts how often each message has ended.
    async fn end_everything(&mut self) {
        self.world.mail.reply_with(OK);
        self.leases.clear();
        while !self.model.jobs.is_empty() {
            self.world.clock.advance(DAY);
            self.claim().await;
            for leased in self.leases.split_off(0) {
                let address = known_address(&leased.lease);
                let key = leased.lease.key();
                let settlement = self.world.attempt(leased).await;
                assert_eq!(self.world.settle(&settlement).await, Settled::Done);
                assert!(self.model.end_lease(address, key));
                assert_eq!(
                    self.model
                        .settle(address, &[OK; MAX_MESSAGES], self.world.now()),
                    None
                );
            }
            self.compare().await;
        }
        assert_eq!(
            self.model.ended, self.model.accepted,
            "the model itself ends each message once"
        );
        let mut ended = BTreeMap::new();
        for event in self
            .world
            .events()
            .await
            .into_iter()
            .filter(|event| event.kind.is_final())
        {
            *ended
                .entry((event.job.replace("default/", ""), event.message.unwrap()))
                .or_default() += 1;
        }
        assert_eq!(
            ended, self.model.accepted,
            "each accepted message has one final event"
        );
    }
}

fn known_address(lease: &Lease) -> &'static str {
    let address = lease.recipient();
    ADDRESSES
        .into_iter()
        .find(|known| *known == address)
        .expect("the test uses only these addresses")
}

fn answer_name(answer: &Answer) -> &'static str {
    match answer {
        Answer::Scheduled { .. } => "scheduled",
        Answer::Joined { .. } => "joined",
        Answer::Duplicate => "duplicate",
        Answer::Stale => "stale",
        Answer::Retired(_) => "retired",
        Answer::Dropped => "dropped",
        Answer::Accepted(_) | Answer::Deferred { .. } => "confirmed",
    }
}

fn fact_answer(answer: &FactAnswer) -> &'static str {
    match answer {
        FactAnswer::Closed => "closed",
        FactAnswer::Ended => "ended",
        FactAnswer::Resumed { .. } => "resumed",
        FactAnswer::Reinstated => "reinstated",
        FactAnswer::Suppressed(_) => "suppressed",
        FactAnswer::Stale => "stale",
        FactAnswer::Noted => "noted",
    }
}
