//! Every accepted message ends in exactly one final event, whatever happens in which order: random operations on the
//! real store match a model in memory, and at the end nothing is left over.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::bounce::{FULL, FULL_FOR_GOOD, MAINTENANCE, OK, TOO_BIG, UNKNOWN, bounce};
use harness::world::{DAY, HOUR, LEASE, MS, Settings, World};
use shared::clock::Timestamp;
use shared::standing::Standing;
use shared::store::claim::{Lease, LeasedJob};
use shared::store::lease::Extended;
use shared::store::schedule::Answer;
use shared::store::settle::Settled;

const SEEDS: u64 = 8;
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

/// What a bounce says, and what a retry meets. Addresses must not end too soon, or little would happen to them.
const BOUNCES: [&str; 20] = [
    FULL,
    FULL,
    FULL,
    FULL,
    FULL,
    FULL,
    FULL,
    FULL,
    MAINTENANCE,
    MAINTENANCE,
    MAINTENANCE,
    MAINTENANCE,
    MAINTENANCE,
    MAINTENANCE,
    MAINTENANCE,
    MAINTENANCE,
    TOO_BIG,
    TOO_BIG,
    FULL_FOR_GOOD,
    UNKNOWN,
];
const REPLIES: [&str; 20] = [
    OK,
    OK,
    OK,
    OK,
    OK,
    FULL,
    FULL,
    FULL,
    FULL,
    MAINTENANCE,
    MAINTENANCE,
    MAINTENANCE,
    MAINTENANCE,
    MAINTENANCE,
    MAINTENANCE,
    TOO_BIG,
    TOO_BIG,
    TOO_BIG,
    FULL_FOR_GOOD,
    UNKNOWN,
];

#[tokio::test]
async fn random_operations_match_a_model_and_end_every_message_once() {
    for seed in 0..SEEDS {
        // Shown where the test fails.
        println!("seed {seed}");
        let world = World::with(Settings { max_messages: MAX_MESSAGES, ..Settings::default() }).await;
        let mut play = Play { world, random: Random(seed), model: Model::default(), hands: Vec::new() };
        for n in 0..OPERATIONS {
            play.operate().await;
            if n % 8 == 0 {
                play.compare().await;
            }
        }
        play.end_everything().await;
    }
}

/// The real store, the model, and what workers have in their hands.
struct Play {
    world: World,
    random: Random,
    model: Model,
    hands: Vec<LeasedJob>,
}

/// What must be so.
#[derive(Default)]
struct Model {
    jobs: BTreeMap<&'static str, Job>,
    gone: BTreeMap<&'static str, Gone>,
    delivered: BTreeMap<&'static str, Timestamp>,
    /// When somebody at a destination last got through.
    delivered_there: BTreeMap<&'static str, Timestamp>,
    /// How often each message was accepted, and how often it ended.
    accepted: BTreeMap<(String, String), usize>,
    ended: BTreeMap<(String, String), usize>,
}

#[derive(Debug)]
struct Job {
    created: Timestamp,
    attempt: u32,
    messages: Vec<String>,
    /// When it is due; while it is leased, when it was.
    due: Timestamp,
    lease: Option<Leased>,
}

#[derive(Debug)]
struct Leased {
    token: Timestamp,
    claimed: Timestamp,
    /// How many of its messages the worker saw.
    seen: usize,
    /// Whether nobody at its destination had got through since the job came to be.
    host_dead: bool,
}

/// An address's standing.
#[derive(Clone, Debug, PartialEq)]
struct Gone {
    standing: Standing,
    until: Option<Timestamp>,
    strikes: u32,
}

impl Play {
    async fn operate(&mut self) {
        self.world.clock.advance(MS);
        match self.random.below(20) {
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
                let steps = [LEASE / 2, LEASE / 2, LEASE, LEASE, HOUR, HOUR, 6 * HOUR, DAY, 5 * DAY, 31 * DAY];
                self.world.clock.advance(self.random.of(&steps));
            }
            _ => {
                let lifted = self.world.store.reinstate().await.unwrap();
                assert_eq!(lifted, self.model.reinstate(self.world.now()));
            }
        }
    }

    async fn take_in_a_bounce(&mut self) {
        let address = self.random.of(&ADDRESSES);
        let message = format!("m{}", self.random.below(9));
        let reply = self.random.of(&BOUNCES);
        let occurred = Timestamp::from_ms(self.world.now().ms() - self.random.below(7_200_000) as i64);
        let mut posted = bounce(address, &message, reply);
        posted["occurred_at"] = occurred.to_string().into();
        let answer = self.world.take_in(posted).await;
        let expected = self.model.take_in(address, &message, reply, occurred, self.world.now());
        assert_eq!(word(&answer), expected, "{address} {message} {reply}");
        if let Answer::Scheduled { due } = answer {
            let earliest = occurred.plus(delays(reply)[0]).max(self.world.now());
            let latest = occurred.plus(delays(reply)[0].mul_f64(1.1)).max(self.world.now());
            assert!((earliest..=latest).contains(&due), "{due} is not from {earliest} to {latest}");
            self.model.jobs.get_mut(address).unwrap().due = due;
        }
    }

    async fn claim(&mut self) {
        let mut claimed = self.world.claim().await;
        claimed.sort_by(|a, b| a.job.id.cmp(&b.job.id));
        let had: Vec<_> = claimed.iter().map(|leased| leased.job.id.recipient.as_str()).collect();
        assert_eq!(had, self.model.claim(self.world.now()));
        self.hands.extend(claimed);
    }

    /// A worker finishes its attempt, be it in time or long after its lease lapsed.
    async fn finish_an_attempt(&mut self) {
        let Some(leased) = self.take_a_hand() else { return };
        let replies = [0; MAX_MESSAGES].map(|_| self.random.of(&REPLIES));
        self.world.mail.says_in_turn(&replies);
        let lease = leased.lease.clone();
        let settlement = self.world.attempt(leased).await;
        let settled = self.world.settle(&settlement).await;
        let address = known(&lease);
        let valid = self.model.is_valid(address, lease.token);
        assert_eq!(settled == Settled::Done, valid, "{address} {replies:?}");
        if !valid {
            return;
        }
        if let Some(delay) = self.model.settle(address, &replies, self.world.now()) {
            let due = self.world.job(address).await.due.unwrap();
            let (earliest, latest) = (self.world.now().plus(delay), self.world.now().plus(delay.mul_f64(1.1)));
            assert!((earliest..=latest).contains(&due), "{due} is not from {earliest} to {latest}");
            self.model.jobs.get_mut(address).unwrap().due = due;
        }
    }

    async fn release(&mut self) {
        let Some(leased) = self.take_a_hand() else { return };
        let released = self.world.release(&leased.lease).await;
        let address = known(&leased.lease);
        let valid = self.model.is_valid(address, leased.lease.token);
        assert_eq!(released, valid);
        if valid {
            self.model.put_back(address, leased.lease.due);
        }
    }

    async fn extend(&mut self) {
        let Some(mut leased) = self.take_a_hand() else { return };
        let address = known(&leased.lease);
        let valid = self.model.is_valid(address, leased.lease.token);
        let extended = self.world.extend(&mut leased.lease).await;
        assert_eq!(extended == Extended::Yes, valid);
        if valid {
            self.model.jobs.get_mut(address).unwrap().lease.as_mut().unwrap().token = leased.lease.token;
        }
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
                let messages: Vec<String> = had.job.messages.into_iter().map(|message| message.id).collect();
                (had.job.head.attempt, messages, had.due, had.leased_until)
            });
            let wanted = self.model.jobs.get(address).map(|job| {
                let token = job.lease.as_ref().map(|lease| lease.token);
                (job.attempt, job.messages.clone(), token.is_none().then_some(job.due), token)
            });
            assert_eq!(had, wanted, "{address}");
            let had =
                report.standing.map(|had| Gone { standing: had.standing, until: had.until, strikes: had.strikes });
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
                let settlement = self.world.attempt(leased).await;
                assert_eq!(self.world.settle(&settlement).await, Settled::Done);
                assert_eq!(self.model.settle(address, &[OK; MAX_MESSAGES], self.world.now()), None);
            }
            self.compare().await;
        }
        assert_eq!(self.model.ended, self.model.accepted, "the model itself ends each message once");
        let mut ended = BTreeMap::new();
        for event in self.world.events().await.into_iter().filter(|event| event.kind.is_final()) {
            *ended.entry((event.job.replace("default/", ""), event.message.unwrap())).or_default() += 1;
        }
        assert_eq!(ended, self.model.accepted, "each accepted message has one final event");
    }
}

impl Model {
    fn take_in(
        &mut self,
        address: &'static str,
        message: &str,
        reply: &str,
        occurred: Timestamp,
        now: Timestamp,
    ) -> &str {
        if self.delivered.get(address).is_some_and(|delivered| occurred <= *delivered) {
            return "stale";
        }
        let gone = self.gone.get(address).filter(|gone| gone.is_gone(now)).map(|gone| gone.standing);
        let waits = self.jobs.get(address).is_some_and(|job| job.messages.iter().any(|one| one == message));
        if [UNKNOWN, FULL_FOR_GOOD].contains(&reply) {
            // What is unavailable can still turn out to be dead.
            if gone.is_none() || (gone == Some(Standing::Unavailable) && reply == UNKNOWN) {
                if !waits {
                    self.accept(address, message);
                    self.end(address, message);
                }
                self.retire(address, end(reply), false, now);
            }
            return "retired";
        }
        if gone.is_some() {
            return "retired";
        }
        if waits {
            return "duplicate";
        }
        self.accept(address, message);
        if reply == TOO_BIG {
            self.end(address, message);
            return "dropped";
        }
        let Some(job) = self.jobs.get_mut(address) else {
            let job = Job { created: now, attempt: 0, messages: vec![message.to_owned()], due: now, lease: None };
            self.jobs.insert(address, job);
            return "scheduled";
        };
        job.messages.push(message.to_owned());
        let bound = if job.lease.is_some() { 2 * MAX_MESSAGES } else { MAX_MESSAGES };
        let replaced = (job.messages.len() > bound).then(|| job.messages.remove(bound - MAX_MESSAGES));
        if let Some(replaced) = replaced {
            self.end(address, &replaced);
        }
        "joined"
    }

    /// Who is leased by a claim at `now`, in order.
    fn claim(&mut self, now: Timestamp) -> Vec<&'static str> {
        let token_of = |job: &Job| job.lease.as_ref().map(|lease| lease.token);
        let lapsed: Vec<_> = self.jobs.iter().filter_map(|(address, job)| Some((*address, token_of(job)?))).collect();
        for (address, token) in lapsed.into_iter().filter(|(_, token)| *token <= now) {
            self.put_back(address, token);
        }
        let mut claimed: Vec<_> =
            self.jobs.iter_mut().filter(|(_, job)| job.lease.is_none() && job.due <= now).collect();
        for (address, job) in &mut claimed {
            let host_dead = self.delivered_there.get(domain(address)).is_none_or(|at| *at < job.created);
            job.lease = Some(Leased { token: now.plus(LEASE), claimed: now, seen: job.messages.len(), host_dead });
        }
        claimed.into_iter().map(|(address, _)| *address).collect()
    }

    fn is_valid(&self, address: &str, token: Timestamp) -> bool {
        let lease = self.jobs.get(address).and_then(|job| job.lease.as_ref());
        lease.is_some_and(|lease| lease.token == token)
    }

    /// The job is no longer leased, and due at `due`.
    fn put_back(&mut self, address: &'static str, due: Timestamp) {
        let job = self.jobs.get_mut(address).unwrap();
        (job.lease, job.due) = (None, due);
        self.trim(address);
    }

    /// What an attempt leads to whose messages are answered with `replies`: the delay until the next one, where the job
    /// waits for one.
    fn settle(&mut self, address: &'static str, replies: &[&str], now: Timestamp) -> Option<Duration> {
        let job = self.jobs.get_mut(address).unwrap();
        let Leased { claimed, seen, host_dead, .. } = job.lease.take().unwrap();
        let joined = job.messages.split_off(seen);
        let (mut waiting, mut step) = (std::mem::replace(&mut job.messages, joined), job.attempt + 1);
        let created = job.created;
        let overdue = |now: Timestamp| now.since(created) >= 30 * DAY;
        let mut replies = replies.iter().copied();
        while !waiting.is_empty() {
            let reply = if overdue(claimed) { "its last failure again" } else { replies.next().unwrap_or(OK) };
            match (reply, delays(reply).get(step as usize).filter(|_| !overdue(now))) {
                (OK, _) => {
                    // A failure from here on is a new outage.
                    step = 0;
                    self.jobs.get_mut(address).unwrap().created = now;
                    self.delivered.insert(address, now);
                    self.delivered_there.insert(domain(address), now);
                    self.gone.remove(address);
                    self.end(address, &waiting.remove(0));
                }
                (TOO_BIG, _) => self.end(address, &waiting.remove(0)),
                (_, Some(delay)) => {
                    let job = self.jobs.get_mut(address).unwrap();
                    job.attempt = step;
                    job.messages.splice(0..0, waiting);
                    self.trim(address);
                    return Some(*delay);
                }
                (reply, None) => {
                    for message in waiting {
                        self.end(address, &message);
                    }
                    // Only a failure of the host says that it is the host that is dead.
                    let host_dead = host_dead && reply != FULL_FOR_GOOD;
                    self.retire(address, end(reply), host_dead, now);
                    return None;
                }
            }
        }
        // No message is left but what joined, which goes on at once with the whole schedule before it.
        let job = self.jobs.get_mut(address).unwrap();
        (job.created, job.attempt, job.due) = (now, 0, now);
        if job.messages.is_empty() {
            self.jobs.remove(address);
        } else {
            self.trim(address);
        }
        None
    }

    fn retire(&mut self, address: &'static str, standing: Standing, host_dead: bool, now: Timestamp) {
        for message in self.jobs.remove(address).map(|job| job.messages).unwrap_or_default() {
            self.end(address, &message);
        }
        let before = self.gone.get(address).map_or(0, |gone| gone.strikes);
        let strikes = before + 1;
        let gone = match standing {
            Standing::Unavailable if strikes < 3 || host_dead => {
                let days = (30 << before.min(8)).min(180);
                Gone { standing, until: Some(now.plus(days * DAY)), strikes }
            }
            Standing::Unavailable => Gone { standing: Standing::Inactive, until: None, strikes },
            _ => Gone { standing, until: None, strikes: 0 },
        };
        self.gone.insert(address, gone);
    }

    /// Lifts what is over, and tells how many.
    fn reinstate(&mut self, now: Timestamp) -> u64 {
        let over = self.gone.values_mut().filter(|gone| gone.until.is_some_and(|until| until <= now));
        over.map(|gone| (gone.standing, gone.until) = (Standing::Active, None)).count() as u64
    }

    fn trim(&mut self, address: &str) {
        let messages = &mut self.jobs.get_mut(address).unwrap().messages;
        let replaced: Vec<String> = messages.drain(..messages.len().saturating_sub(MAX_MESSAGES)).collect();
        for message in replaced {
            self.end(address, &message);
        }
    }

    fn accept(&mut self, address: &str, message: &str) {
        *self.accepted.entry((address.to_owned(), message.to_owned())).or_default() += 1;
    }

    fn end(&mut self, address: &str, message: &str) {
        *self.ended.entry((address.to_owned(), message.to_owned())).or_default() += 1;
    }
}

impl Gone {
    fn is_gone(&self, now: Timestamp) -> bool {
        self.standing != Standing::Active && self.until.is_none_or(|until| until > now)
    }
}

/// The schedule of a reply; none for those that end something at once.
fn delays(reply: &str) -> Vec<Duration> {
    match reply {
        FULL => [24, 48, 72, 168].map(|hours| hours * HOUR).to_vec(),
        MAINTENANCE => [1, 4, 12, 24].map(|hours| hours * HOUR).to_vec(),
        _ => Vec::new(),
    }
}

/// Where an address is left that `reply` is the last word about.
fn end(reply: &str) -> Standing {
    if reply == UNKNOWN { Standing::Inactive } else { Standing::Unavailable }
}

fn domain(address: &'static str) -> &'static str {
    address.rsplit_once('@').unwrap().1
}

fn known(lease: &Lease) -> &'static str {
    let address = lease.job.recipient.as_str();
    ADDRESSES.into_iter().find(|known| *known == address).expect("only these are used")
}

fn word(answer: &Answer) -> &'static str {
    match answer {
        Answer::Scheduled { .. } => "scheduled",
        Answer::Joined { .. } => "joined",
        Answer::Duplicate => "duplicate",
        Answer::Stale => "stale",
        Answer::Retired(_) => "retired",
        Answer::Dropped => "dropped",
    }
}

/// SplitMix64: a few lines, and the same run for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}
