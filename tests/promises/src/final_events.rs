//! Every accepted message ends in exactly one final event, whatever happens in which order: random
//! operations on the real store match a model in memory, and at the end nothing is left over.

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

use model::{Gone, Model, delays};

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

/// What bounces say and what retries meet, and how often. Addresses must not end too soon, or
/// little would happen.
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

/// What is told of addresses. Complaints are rare, and operators make them good.
const FACTS: [(usize, &str); 4] = [
    (3, "delivered"),
    (4, "engaged"),
    (1, "complaint"),
    (3, "reinstate"),
];

#[tokio::test]
async fn random_operations_match_a_model_and_end_every_message_once() {
    for seed in seeds(8) {
        play(seed, Deployment::default()).await;
    }
}

#[tokio::test]
async fn in_a_cluster_they_match_the_same_model() {
    for seed in seeds(3) {
        let prefix = play(seed, Deployment::Cluster).await;
        assert!(
            cluster::masters_with(&prefix) > 1,
            "several masters have a part in it"
        );
    }
}

/// Plays one seed, and tells the prefix of the keys.
async fn play(seed: u64, redis: Deployment) -> String {
    // Shown where the test fails.
    println!("seed {seed}");
    let settings = Settings {
        redis,
        max_messages: MAX_MESSAGES,
        max_lapses: 1_000,
        pace: Pace::unbounded(),
        ..Settings::default()
    };
    let world = World::with(settings).await;
    let mut play = Play {
        world,
        random: Random::from_seed(seed),
        model: Model::default(),
        hands: Vec::new(),
    };
    for n in 0..OPERATIONS {
        play.operate().await;
        if n % 8 == 0 {
            play.compare().await;
        }
    }
    play.end_everything().await;
    play.world.prefix
}

/// The real store, the model, and what workers have in their hands.
struct Play {
    world: World,
    random: Random,
    model: Model,
    hands: Vec<LeasedJob>,
}

impl Play {
    async fn operate(&mut self) {
        self.world.clock.advance(MS);
        match self.random.below(23) {
            0..7 => self.take_in_a_bounce().await,
            7..10 => self.claim().await,
            10..14 => self.finish_an_attempt().await,
            14 => self.release().await,
            15 => self.extend().await,
            16 => {
                // A worker crashes.
                self.take_a_hand();
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
                    assert_eq!(repaired, Repaired::default(), "there is nothing to repair");
                    self.world.store.trim_marks(shard).await.unwrap();
                }
            }
            20..22 => self.tell_a_fact().await,
            _ => {
                let lifted = self.world.store.reinstate().await.unwrap();
                assert_eq!(lifted, self.model.reinstate(self.world.now()));
            }
        }
    }

    async fn take_in_a_bounce(&mut self) {
        let address = self.random.of(&ADDRESSES);
        let message = format!("m{}", self.random.below(9));
        let reply = self.random.weighted(&BOUNCES);
        let occurred =
            Timestamp::from_ms(self.world.now().ms() - self.random.below(7_200_000) as i64);
        let mut posted = bounce(address, &message, reply);
        posted["occurred_at"] = occurred.to_string().into();
        let answer = self.world.take_in(posted).await;
        let expected = self
            .model
            .take_in(address, &message, reply, occurred, self.world.now());
        assert_eq!(word(&answer), expected, "{address} {message} {reply}");
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

    /// Somebody says something of an address, be it a platform or an operator.
    async fn tell_a_fact(&mut self) {
        let address = self.random.of(&ADDRESSES);
        let word = self.random.weighted(&FACTS);
        let message = format!("m{}", self.random.below(9));
        let message = Some(message).filter(|_| self.random.below(2) == 0 && word != "reinstate");
        let answer = if word == "reinstate" {
            self.world.reinstate(address).await
        } else {
            self.world
                .tell(json!({"type": word, "recipient": address, "message_id": message}))
                .await
        };
        let expected = self
            .model
            .tell(address, word, message.as_deref(), self.world.now());
        assert_eq!(told(&answer), expected, "{address} {word} {message:?}");
    }

    async fn claim(&mut self) {
        let mut claimed = self.world.claim().await;
        claimed.sort_by(|a, b| a.job.id.cmp(&b.job.id));
        let keys = claimed
            .iter()
            .map(|leased| (known(&leased.lease), leased.lease.key()))
            .collect();
        let had: Vec<_> = claimed.iter().map(|leased| known(&leased.lease)).collect();
        assert_eq!(had, self.model.claim(self.world.now(), &keys));
        self.hands.extend(claimed);
    }

    /// A worker finishes its attempt, be it in time or long after its lease lapsed.
    async fn finish_an_attempt(&mut self) {
        let Some(leased) = self.take_a_hand() else {
            return;
        };
        let replies = [0; MAX_MESSAGES].map(|_| self.random.weighted(&REPLIES));
        self.world.mail.says_in_turn(&replies);
        let lease = leased.lease.clone();
        let settlement = self.world.attempt(leased).await;
        let settled = self.world.settle(&settlement).await;
        let address = known(&lease);
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
        let Some(leased) = self.take_a_hand() else {
            return;
        };
        let released = self.world.release(&leased.lease).await;
        let address = known(&leased.lease);
        let valid = self.model.end_lease(address, leased.lease.key());
        assert_eq!(released, valid);
        if valid {
            self.model.put_back(address, leased.lease.due);
        }
    }

    async fn extend(&mut self) {
        let Some(leased) = self.take_a_hand() else {
            return;
        };
        let extended = self.world.extend(&leased.lease).await;
        let lasts = self
            .model
            .extend(leased.lease.key(), self.world.now().plus(LEASE));
        assert_eq!(matches!(extended, Extended::Yes(_)), lasts);
        self.hands.push(leased);
    }

    fn take_a_hand(&mut self) -> Option<LeasedJob> {
        let count = self.hands.len();
        (count > 0).then(|| self.hands.swap_remove(self.random.below(count)))
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
                let until = self.model.leased_until(job);
                (
                    job.attempt,
                    job.messages.clone(),
                    until.is_none().then_some(job.due),
                    until,
                )
            });
            assert_eq!(had, wanted, "{address}");
            let had = report.standing.map(|had| Gone {
                standing: had.standing,
                until: had.until,
                strikes: had.strikes,
            });
            assert_eq!(had.as_ref(), self.model.gone.get(address), "{address}");
        }
    }

    /// Lets every mail get through from now on, until no job is left. Then accounts are settled.
    async fn end_everything(&mut self) {
        self.world.mail.says(OK);
        self.hands.clear();
        while !self.model.jobs.is_empty() {
            self.world.clock.advance(DAY);
            self.claim().await;
            for leased in self.hands.split_off(0) {
                let address = known(&leased.lease);
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

fn known(lease: &Lease) -> &'static str {
    let address = lease.recipient();
    ADDRESSES
        .into_iter()
        .find(|known| *known == address)
        .expect("only these are used")
}

fn word(answer: &Answer) -> &'static str {
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

fn told(answer: &FactAnswer) -> &'static str {
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
